package ec2

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"golang.org/x/sync/errgroup"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// MissingPermission is an action that Berth's IAM role may not take.
type MissingPermission struct {
	// Action as IAM names it: ec2:CreateFleet.
	Action string
	// Message is what AWS said.
	Message string
}

// UntriedAction is an action of which AWS gave no verdict.
type UntriedAction struct {
	Action string
	// Why is a sentence without a full stop.
	Why string
}

// Permissions is what Preflight found out.
type Permissions struct {
	// Allowed is how many actions AWS would have let Berth take.
	Allowed int
	Missing []MissingPermission
	Untried []UntriedAction
}

// probe tries one action without effect.
type probe struct {
	action string
	call   func(context.Context) error
}

// Preflight tries the actions that Berth needs, changing nothing: EC2's as dry
// runs, the others with a harmless question. Actions that the role may take on
// the cluster's own objects alone are tried on such objects, and left untried
// where there are none yet: on an object that does not exist, a good role looks
// like a bad one. ec2:RunInstances, and iam:PassRole with it, are tried with
// what a Provisioner without settings of its own would use; what Provisioners
// name beside that is judged by Resolve. The error is the first call that got
// no answer.
//
// queue is the interruption queue, nil without one: a message that it has
// is hidden for a second; the removal is of one that cannot be.
func (c *Cloud) Preflight(ctx context.Context, queue *Queue) (Permissions, error) {
	var out Permissions
	untried := func(why string, actions ...string) {
		for _, a := range actions {
			out.Untried = append(out.Untried, UntriedAction{Action: a, Why: why})
		}
	}
	probes := c.freeProbes()
	if queue != nil {
		probes = append(probes, queue.probes()...)
	}
	r, why := c.plainLaunch(ctx)
	switch template, err := c.anyTemplate(ctx); {
	case err != nil:
		untried("launch templates cannot be listed: "+flat(err.Error()), actCreateFleet, actDeleteTemplate)
	case template == "":
		untried("there is no launch template of this cluster yet", actCreateFleet, actDeleteTemplate)
	default:
		probes = append(probes, c.templateProbes(template, r.Subnets)...)
	}
	switch live, err := c.Instances(ctx); {
	case err != nil:
		untried("instances cannot be listed: "+flat(err.Error()), actTerminate, actCreateTags)
	case len(live) == 0:
		untried("there is no instance of this cluster yet", actTerminate, actCreateTags)
	default:
		probes = append(probes, c.instanceProbes(live[0])...)
	}
	if why != "" {
		untried(why, actRunInstances, actPassRole)
	} else {
		probes = append(probes, probe{actRunInstances, func(ctx context.Context) error { return c.dryRun(ctx, c.dryRunRequest(&v1alpha1.EC2{}, r)) }})
		if r.InstanceProfile == "" {
			untried("no --default-instance-profile is given; Provisioners' conditions judge theirs", actPassRole)
		}
	}
	verdicts := make([]error, len(probes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, p := range probes {
		g.Go(func() error {
			verdicts[i] = translate(p.action, p.call(gctx))
			if isTransient(verdicts[i]) && !isDeniedCode(codeOf(verdicts[i])) {
				return fmt.Errorf("trying whether %s is allowed: %w", p.action, verdicts[i])
			}
			return nil
		})
	}
	err := g.Wait()
	for i, p := range probes {
		code, message := codeOf(verdicts[i]), faultOf(verdicts[i]).Message
		switch {
		case isDeniedCode(code):
			action := p.action
			if strings.Contains(message, actPassRole) {
				action = actPassRole // What a launch needs beside itself.
			}
			out.Missing = append(out.Missing, MissingPermission{Action: action, Message: message})
		case verdicts[i] == nil || code == "DryRunOperation" || strings.HasPrefix(p.action, "sqs:"):
			out.Allowed++ // SQS judges before it looks at the receipt.
		case isTransient(verdicts[i]): // The error says so.
		default:
			untried(strings.TrimPrefix("AWS said before it judged: "+code+": "+message, ": "), p.action)
		}
	}
	return out, err
}

// Actions that are not tried in every cluster.
const (
	actCreateFleet    = "ec2:CreateFleet"
	actDeleteTemplate = "ec2:DeleteLaunchTemplate"
	actTerminate      = "ec2:TerminateInstances"
	actCreateTags     = "ec2:CreateTags"
	actRunInstances   = "ec2:RunInstances"
	actPassRole       = "iam:PassRole"
)

// plainLaunch resolves what a Provisioner without settings of its own would
// launch. why, when not empty, is what is missing for it.
func (c *Cloud) plainLaunch(ctx context.Context) (r *Resolved, why string) {
	e := &v1alpha1.EC2{}
	r = &Resolved{InstanceProfile: c.cfg.DefaultInstanceProfile}
	var found [3]Finding
	var err error
	if r.Subnets, found[0], err = c.resolveSubnets(ctx, e); err == nil {
		if r.SecurityGroups, found[1], err = c.resolveGroups(ctx, e, r.Subnets); err == nil {
			r.Images, found[2], err = c.resolveImages(ctx, e)
		}
	}
	if err != nil {
		return r, flat(err.Error())
	}
	for _, f := range found {
		if !f.OK {
			return r, f.Message
		}
	}
	return r, ""
}

// anyTemplate returns the id of a launch template of this cluster, or "".
func (c *Cloud) anyTemplate(ctx context.Context) (string, error) {
	got, err := c.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{Filters: c.clusterFilters()})
	if err != nil || len(got.LaunchTemplates) == 0 {
		return "", translate("DescribeLaunchTemplates", err)
	}
	return aws.ToString(got.LaunchTemplates[0].LaunchTemplateId), nil
}

// templateProbes need a launch template of this cluster, and a subnet if there is one.
func (c *Cloud) templateProbes(template string, subnets []Subnet) []probe {
	override := types.FleetLaunchTemplateOverridesRequest{InstanceType: types.InstanceTypeM5Large}
	if len(subnets) > 0 {
		override.SubnetId = aws.String(subnets[0].ID)
	}
	return []probe{
		{actCreateFleet, func(ctx context.Context) error {
			_, err := c.ec2.CreateFleet(ctx, &ec2.CreateFleetInput{DryRun: aws.Bool(true), Type: types.FleetTypeInstant,
				TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(1),
					DefaultTargetCapacityType: types.DefaultTargetCapacityTypeOnDemand},
				LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
					LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{
						LaunchTemplateId: aws.String(template), Version: aws.String(firstVersion)},
					Overrides: []types.FleetLaunchTemplateOverridesRequest{override}}},
				TagSpecifications: launchTags(c.clusterTags())}, c.slow)
			return err
		}},
		{actDeleteTemplate, func(ctx context.Context) error {
			_, err := c.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{DryRun: aws.Bool(true), LaunchTemplateId: aws.String(template)})
			return err
		}},
	}
}

// instanceProbes need an instance of this cluster. The tags are those that
// instances get after their launch.
func (c *Cloud) instanceProbes(i Instance) []probe {
	return []probe{
		{actTerminate, func(ctx context.Context) error {
			_, err := c.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{DryRun: aws.Bool(true), InstanceIds: []string{i.ID}})
			return err
		}},
		{actCreateTags, func(ctx context.Context) error {
			_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{DryRun: aws.Bool(true), Resources: []string{i.ID},
				Tags: tagList(map[string]string{v1alpha1.TagNodeClaim: i.ClaimName})})
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
			_, err := c.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: []string{al2023Param(c.KubernetesVersion(), "x86_64", "standard", "latest")}})
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
