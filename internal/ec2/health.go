package ec2

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// statusPage is the most instances that a page of DescribeInstanceStatus holds.
const statusPage = 1000

// Trouble is an instance that EC2 says something is wrong with, or is going to be.
type Trouble struct {
	InstanceID string
	// Failing names the checks that fail ("instance", "system", "attached EBS"), Since when the
	// first of them began to; zero where EC2 does not say.
	Failing []string
	Since   time.Time
	// Events are planned for the instance, the soonest first.
	Events []PlannedEvent
}

// PlannedEvent is an event that AWS has planned for an instance.
type PlannedEvent struct {
	// Code is instance-reboot, system-reboot, system-maintenance,
	// instance-retirement, instance-stop or CodeBlockEnd.
	Code string
	// NotBefore is when it begins at the earliest.
	NotBefore time.Time
}

// CodeBlockEnd stands for the end of the Capacity Block that an instance is in. It
// is Berth's own: EC2 announces that by EventBridge alone.
const CodeBlockEnd = "capacity-block-end"

// plannedCodes are the codes of events that take an instance away from its pods.
var plannedCodes = []string{"instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop"}

// Troubles asks EC2 for the instances of this account whose checks fail, which
// have events planned or whose Capacity Block is about to end, other clusters'
// included: the answer is short, and the question cannot be narrowed by tag.
// Filters of one call must all match, so that there is one call for each kind of
// trouble.
func (c *Cloud) Troubles(ctx context.Context) ([]Trouble, error) {
	byID := map[string]Trouble{}
	for _, f := range []types.Filter{
		filter("instance-status.status", "impaired"),
		filter("system-status.status", "impaired"),
		filter("attached-ebs-status.status", "impaired"),
		filter("event.code", plannedCodes...),
	} {
		p := ec2.NewDescribeInstanceStatusPaginator(c.ec2, &ec2.DescribeInstanceStatusInput{Filters: []types.Filter{f}, MaxResults: aws.Int32(statusPage)})
		for p.HasMorePages() {
			page, err := p.NextPage(ctx)
			if err != nil {
				return nil, translate("DescribeInstanceStatus", err)
			}
			for _, s := range page.InstanceStatuses {
				if t := troubleOf(s); len(t.Failing)+len(t.Events) > 0 {
					byID[t.InstanceID] = t
				}
			}
		}
	}
	taken, err := c.endingBlocks(ctx)
	if err != nil {
		return nil, err
	}
	for id, at := range taken {
		t := byID[id]
		t.InstanceID = id
		t.Events = append([]PlannedEvent{{CodeBlockEnd, at}}, t.Events...) // Nothing is sooner.
		byID[id] = t
	}
	out := make([]Trouble, 0, len(byID))
	for _, t := range byID {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b Trouble) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return out, nil
}

// troubleOf translates what EC2 says of an instance.
func troubleOf(s types.InstanceStatus) Trouble {
	t := Trouble{InstanceID: aws.ToString(s.InstanceId)}
	since := func(at *time.Time) {
		if at := aws.ToTime(at); !at.IsZero() && (t.Since.IsZero() || at.Before(t.Since)) {
			t.Since = at
		}
	}
	check := func(name string, sum *types.InstanceStatusSummary) {
		if sum == nil || sum.Status != types.SummaryStatusImpaired {
			return
		}
		t.Failing = append(t.Failing, name)
		for _, d := range sum.Details {
			since(d.ImpairedSince)
		}
	}
	check("instance", s.InstanceStatus)
	check("system", s.SystemStatus)
	if sum := s.AttachedEbsStatus; sum != nil && sum.Status == types.SummaryStatusImpaired {
		t.Failing = append(t.Failing, "attached EBS")
		for _, d := range sum.Details {
			since(d.ImpairedSince)
		}
	}
	for _, e := range s.Events {
		// A finished or cancelled event stays listed for a while, and says so.
		if text := aws.ToString(e.Description); strings.HasPrefix(text, "[Completed]") || strings.HasPrefix(text, "[Canceled]") {
			continue
		}
		if slices.Contains(plannedCodes, string(e.Code)) {
			t.Events = append(t.Events, PlannedEvent{Code: string(e.Code), NotBefore: aws.ToTime(e.NotBefore)})
		}
	}
	slices.SortFunc(t.Events, func(a, b PlannedEvent) int { return a.NotBefore.Compare(b.NotBefore) })
	return t
}
