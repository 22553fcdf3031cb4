package crash

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// outsider is a client of the run's EC2 whose calls neither count nor are judged.
func outsider(w *world) *ec2.Client {
	return ec2.New(ec2.Options{Region: region, BaseEndpoint: aws.String(w.ec2.URL + "/outsider"), Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")})
}

// runInstance launches an instance with these tags.
func runInstance(w *world, tags map[string]string) (string, error) {
	c := outsider(w)
	images, err := c.DescribeImages(w.ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("architecture"), Values: []string{"x86_64"}}}})
	if err != nil {
		return "", err
	}
	subnets, err := c.DescribeSubnets(w.ctx, &ec2.DescribeSubnetsInput{})
	if err != nil {
		return "", err
	}
	if len(images.Images) == 0 || len(subnets.Subnets) == 0 {
		return "", fmt.Errorf("%d images, %d subnets", len(images.Images), len(subnets.Subnets))
	}
	var list []types.Tag
	for k, v := range tags {
		list = append(list, types.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	out, err := c.RunInstances(w.ctx, &ec2.RunInstancesInput{
		ImageId: images.Images[0].ImageId, SubnetId: subnets.Subnets[0].SubnetId, InstanceType: "r5.large", MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: list}},
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.Instances[0].InstanceId), nil
}
