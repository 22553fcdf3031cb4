package ec2

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/sync/errgroup"
)

// MissingPermission is an action that Berth's IAM role may not take.
type MissingPermission struct {
	// Action as IAM names it: ec2:CreateFleet.
	Action string
	// Message is what AWS said.
	Message string
}

// probe tries one action without effect.
type probe struct {
	action string
	call   func(context.Context) error
}

// Preflight tries the actions that Berth needs, changing nothing: EC2's as dry
// runs, the others with a harmless question. It returns those that are denied;
// an action that AWS did not get to judge is not among them. Actions that the
// role may take on the cluster's own objects alone are tried on such objects,
// and left out where there are none yet: on an object that does not exist, a
// good role looks like a bad one. iam:PassRole and ec2:RunInstances are judged
// by Resolve, which knows the instance profile. The error is the first call
// that got no answer.
//
// queue is the interruption queue, nil without one: a message that it has
// is hidden for a second; the removal is of one that cannot be.
func (c *Cloud) Preflight(ctx context.Context, queue *Queue) ([]MissingPermission, error) {
	probes := c.freeProbes()
	if queue != nil {
		probes = append(probes, queue.probes()...)
	}
	if template, err := c.anyTemplate(ctx); err == nil && template != "" {
		probes = append(probes, c.templateProbes(template)...)
	}
	if live, err := c.Instances(ctx); err == nil && len(live) > 0 {
		probes = append(probes, probe{"ec2:TerminateInstances", func(ctx context.Context) error {
			_, err := c.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{DryRun: aws.Bool(true), InstanceIds: []string{live[0].ID}})
			return err
		}})
	}
	missing := make([]*MissingPermission, len(probes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, p := range probes {
		g.Go(func() error {
			err := translate(p.action, p.call(gctx))
			switch {
			case isDeniedCode(codeOf(err)):
				missing[i] = &MissingPermission{Action: p.action, Message: faultOf(err).Message}
			case isTransient(err):
				return fmt.Errorf("trying whether %s is allowed: %w", p.action, err)
			}
			return nil
		})
	}
	err := g.Wait()
	var out []MissingPermission
	for _, m := range missing {
		if m != nil {
			out = append(out, *m)
		}
	}
	return out, err
}

// anyTemplate returns the id of a launch template of this cluster, or "".
func (c *Cloud) anyTemplate(ctx context.Context) (string, error) {
	got, err := c.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{Filters: c.clusterFilters()})
	if err != nil || len(got.LaunchTemplates) == 0 {
		return "", translate("DescribeLaunchTemplates", err)
	}
	return aws.ToString(got.LaunchTemplates[0].LaunchTemplateId), nil
}

// templateProbes need a launch template of this cluster.
func (c *Cloud) templateProbes(template string) []probe {
	return []probe{
		{"ec2:CreateFleet", func(ctx context.Context) error {
			_, err := c.ec2.CreateFleet(ctx, &ec2.CreateFleetInput{DryRun: aws.Bool(true), Type: types.FleetTypeInstant,
				TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(1),
					DefaultTargetCapacityType: types.DefaultTargetCapacityTypeOnDemand},
				LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
					LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{
						LaunchTemplateId: aws.String(template), Version: aws.String(firstVersion)},
					Overrides: []types.FleetLaunchTemplateOverridesRequest{{InstanceType: types.InstanceTypeM5Large}}}},
				TagSpecifications: launchTags(c.clusterTags())}, c.slow)
			return err
		}},
		{"ec2:DeleteLaunchTemplate", func(ctx context.Context) error {
			_, err := c.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{DryRun: aws.Bool(true), LaunchTemplateId: aws.String(template)})
			return err
		}},
	}
}

// freeProbes need nothing that exists.
func (c *Cloud) freeProbes() []probe {
	dry := aws.Bool(true)
	return []probe{
		{"ec2:DescribeInstanceTypes", func(ctx context.Context) error {
			_, err := c.ec2.DescribeInstanceTypes(ctx, &ec2.DescribeInstanceTypesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeInstanceTypeOfferings", func(ctx context.Context) error {
			_, err := c.ec2.DescribeInstanceTypeOfferings(ctx, &ec2.DescribeInstanceTypeOfferingsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeAvailabilityZones", func(ctx context.Context) error {
			_, err := c.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeInstanceStatus", func(ctx context.Context) error {
			_, err := c.ec2.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeCapacityReservations", func(ctx context.Context) error {
			_, err := c.ec2.DescribeCapacityReservations(ctx, &ec2.DescribeCapacityReservationsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribePlacementGroups", func(ctx context.Context) error {
			_, err := c.ec2.DescribePlacementGroups(ctx, &ec2.DescribePlacementGroupsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeSpotPriceHistory", func(ctx context.Context) error {
			_, err := c.ec2.DescribeSpotPriceHistory(ctx, &ec2.DescribeSpotPriceHistoryInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeSubnets", func(ctx context.Context) error {
			_, err := c.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeSecurityGroups", func(ctx context.Context) error {
			_, err := c.ec2.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeImages", func(ctx context.Context) error {
			_, err := c.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{DryRun: dry, Owners: []string{"self"}})
			return err
		}},
		{"ec2:DescribeInstances", func(ctx context.Context) error {
			_, err := c.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeLaunchTemplates", func(ctx context.Context) error {
			_, err := c.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{DryRun: dry})
			return err
		}},
		{"ec2:DescribeLaunchTemplateVersions", func(ctx context.Context) error {
			_, err := c.ec2.DescribeLaunchTemplateVersions(ctx, &ec2.DescribeLaunchTemplateVersionsInput{DryRun: dry, Versions: []string{"$Latest"}})
			return err
		}},
		{"ec2:CreateLaunchTemplate", func(ctx context.Context) error {
			_, err := c.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{DryRun: dry,
				LaunchTemplateName: aws.String("berth-" + c.cfg.ClusterName + "-preflight"),
				LaunchTemplateData: &types.RequestLaunchTemplateData{InstanceType: types.InstanceTypeM5Large},
				TagSpecifications:  []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: tagList(c.clusterTags())}}})
			return err
		}},
		{"ssm:GetParameters", func(ctx context.Context) error {
			_, err := c.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{al2023Param(c.cfg.KubernetesVersion, "x86_64", "standard", "latest")}})
			return err
		}},
		{"pricing:GetProducts", func(ctx context.Context) error {
			_, err := c.pricing.GetProducts(ctx, &pricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), MaxResults: aws.Int32(1)})
			return err
		}},
	}
}

// probes try what is done with the queue.
func (q *Queue) probes() []probe {
	return []probe{
		{"sqs:ReceiveMessage", func(ctx context.Context) error {
			_, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: aws.String(q.url), MaxNumberOfMessages: 1, VisibilityTimeout: 1})
			return err
		}},
		{"sqs:DeleteMessage", func(ctx context.Context) error {
			_, err := q.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: aws.String(q.url), ReceiptHandle: aws.String("preflight")})
			return err
		}},
	}
}
