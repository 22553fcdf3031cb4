package ec2

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Kinds of what a cluster leaves behind.
const (
	LeftInstance = "instance"
	LeftTemplate = "launch template"
)

// Leftover is something that Berth has made for a cluster.
type Leftover struct {
	// Kind is one of Left….
	Kind, ID string
	// ClusterUID as its tags say.
	ClusterUID string
	// Name of the claim or of the template; Detail for a person.
	Name, Detail string
	Since        time.Time
}

// Sweeper finds and removes what clusters have left behind in a region. It
// needs no cluster.
type Sweeper struct{ cloud *Cloud }

// NewSweeper connects to EC2 by the SDK's standard settings.
func NewSweeper(ctx context.Context, clusterName string) (*Sweeper, error) {
	if !clusterNameRule.MatchString(clusterName) {
		return nil, fmt.Errorf("cluster name %q: give 1 to 100 letters, digits, - and _", clusterName)
	}
	c, err := connect(ctx, Config{ClusterName: clusterName})
	if err != nil {
		return nil, err
	}
	return &Sweeper{c}, nil
}

// Region that is swept.
func (s *Sweeper) Region() string { return s.cloud.Region() }

// Leftovers lists what the tags say Berth has made for clusters of the name, of
// all UIDs or of one: instances that are not terminated, then launch templates,
// each sorted by UID and id. What lacks either tag is not Berth's.
func (s *Sweeper) Leftovers(ctx context.Context, clusterUID string) ([]Leftover, error) {
	c := s.cloud
	tags := []types.Filter{filter("tag:"+v1alpha1.TagClusterPrefix+c.cfg.ClusterName, "owned"), filter("tag-key", v1alpha1.TagClusterUID)}
	if clusterUID != "" {
		tags = append(tags, filter("tag:"+v1alpha1.TagClusterUID, literal(clusterUID)))
	}
	var out []Leftover
	err := c.pages(ctx, append(slices.Clip(tags), filter("instance-state-name", notTerminated...)), func(i types.Instance) {
		in := instanceOf(i)
		out = append(out, Leftover{Kind: LeftInstance, ID: in.ID, ClusterUID: tagMap(i.Tags)[v1alpha1.TagClusterUID], Name: in.ClaimName,
			Detail: strings.Join([]string{in.Type, in.CapacityType, in.Zone, in.State}, " "), Since: in.LaunchedAt})
	})
	if err != nil {
		return nil, fmt.Errorf("listing instances: %w", err)
	}
	p := ec2.NewDescribeLaunchTemplatesPaginator(c.ec2, &ec2.DescribeLaunchTemplatesInput{Filters: tags, MaxResults: aws.Int32(200)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing launch templates: %w", translate("DescribeLaunchTemplates", err))
		}
		for _, t := range page.LaunchTemplates {
			out = append(out, Leftover{Kind: LeftTemplate, ID: aws.ToString(t.LaunchTemplateId), ClusterUID: tagMap(t.Tags)[v1alpha1.TagClusterUID],
				Name: aws.ToString(t.LaunchTemplateName), Since: aws.ToTime(t.CreateTime)})
		}
	}
	slices.SortFunc(out, func(a, b Leftover) int {
		return strings.Compare(a.Kind+a.ClusterUID+a.ID, b.Kind+b.ClusterUID+b.ID)
	})
	return out, nil
}

// sweepBatch is how many instances one call terminates.
const sweepBatch = 100

// Remove terminates the instances and deletes the templates that are in list
// and still carry the tags of the cluster with this UID, read afresh. It goes
// on after a failure and returns what it has removed, and all that went wrong.
func (s *Sweeper) Remove(ctx context.Context, clusterUID string, list []Leftover) ([]Leftover, error) {
	if clusterUID == "" {
		return nil, errors.New("the UID of the cluster is needed: its name alone may be another cluster's too")
	}
	now, err := s.Leftovers(ctx, clusterUID)
	if err != nil {
		return nil, err
	}
	var done, instances []Leftover
	var errs []error
	for _, l := range now {
		if !slices.ContainsFunc(list, func(o Leftover) bool { return o.ID == l.ID }) || l.ClusterUID != clusterUID {
			continue
		}
		if l.Kind == LeftInstance {
			instances = append(instances, l)
			continue
		}
		_, err := s.cloud.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: aws.String(l.ID)})
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting launch template %s: %w", l.ID, translate("DeleteLaunchTemplate", err)))
			continue
		}
		done = append(done, l)
	}
	for part := range slices.Chunk(instances, sweepBatch) {
		ids := make([]string, len(part))
		for i, l := range part {
			ids[i] = l.ID
		}
		err := s.cloud.terminateAll(ctx, ids)
		if err == nil {
			done = append(done, part...)
			continue
		}
		if len(part) == 1 || isTransient(err) {
			errs = append(errs, err)
			continue
		}
		// One bad id (unknown by now, protected, denied) fails the call for all.
		for _, l := range part {
			if err := s.cloud.terminateAll(ctx, []string{l.ID}); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", l.ID, err))
				continue
			}
			done = append(done, l)
		}
	}
	return done, errors.Join(errs...)
}
