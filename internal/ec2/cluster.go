package ec2

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/eks"
)

// Cluster is what EKS knows of a cluster that its nodes must be told.
type Cluster struct {
	// Endpoint is the URL of kube-apiserver, CA its bundle (PEM in base64).
	Endpoint, CA string
	// ServiceCIDR is the range of Service addresses, IPv4 or IPv6.
	ServiceCIDR string
}

// DescribeCluster asks EKS for a cluster by name, in the region and with the
// credentials of the SDK's standard chain.
func DescribeCluster(ctx context.Context, name string) (Cluster, error) {
	settings, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return Cluster{}, oneLine(fmt.Errorf("reading the AWS settings: %w", err))
	}
	if settings.Region == "" {
		return Cluster{}, errors.New("no AWS region is set: set AWS_REGION, for example AWS_REGION=eu-west-1")
	}
	got, err := eks.NewFromConfig(settings).DescribeCluster(ctx, &eks.DescribeClusterInput{Name: aws.String(name)})
	if err != nil {
		err = translate("DescribeCluster", err)
		var bad *ConfigError
		if errors.As(err, &bad) && bad.Code == "ResourceNotFoundException" {
			bad.Fix = "EKS has no cluster of this name in this region: check --cluster-name and AWS_REGION, or give --cluster-endpoint"
		}
		return Cluster{}, oneLine(fmt.Errorf("asking EKS for cluster %s: %w", name, err))
	}
	out := Cluster{Endpoint: aws.ToString(got.Cluster.Endpoint)}
	if ca := got.Cluster.CertificateAuthority; ca != nil {
		out.CA = aws.ToString(ca.Data)
	}
	if n := got.Cluster.KubernetesNetworkConfig; n != nil {
		out.ServiceCIDR = aws.ToString(n.ServiceIpv4Cidr)
		if out.ServiceCIDR == "" {
			out.ServiceCIDR = aws.ToString(n.ServiceIpv6Cidr)
		}
	}
	if out.Endpoint == "" || out.CA == "" {
		return Cluster{}, fmt.Errorf("EKS knows no endpoint of cluster %s yet: it is %s", name, got.Cluster.Status)
	}
	return out, nil
}
