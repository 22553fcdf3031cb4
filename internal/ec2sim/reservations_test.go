package ec2sim

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

const inBlock = types.DefaultTargetCapacityTypeCapacityBlock

// reserve makes a reservation and returns its id.
func (w *world) reserve(r Reservation) string {
	w.t.Helper()
	status, answer := w.post("/_sim/reservations", r)
	if status != http.StatusOK {
		w.t.Fatalf("%d %v", status, answer)
	}
	return answer["id"].(string)
}

// into is a launch template that targets a reservation, for a market.
func (w *world) into(id string, market types.MarketType) string {
	w.t.Helper()
	d := w.templateData()
	if market != "" {
		d.InstanceMarketOptions = &types.LaunchTemplateInstanceMarketOptionsRequest{MarketType: market}
	}
	if id != "" {
		d.CapacityReservationSpecification = &types.LaunchTemplateCapacityReservationSpecificationRequest{
			CapacityReservationTarget: &types.CapacityReservationTarget{CapacityReservationId: aws.String(id)}}
	}
	out := must(w.ec2.CreateLaunchTemplate(w.t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("into-" + w.sim.newUUID()), LaunchTemplateData: d}))(w.t)
	return *out.LaunchTemplate.LaunchTemplateId
}

func TestCapacityBlockFromStartToEnd(t *testing.T) {
	w := newWorld(t)
	c, queueURL := w.queue()
	id := w.reserve(Reservation{InstanceType: "p5.48xlarge", Zone: "us-west-2b", Count: 2, StartsIn: "1h", EndsIn: "25h"})
	gpu := w.override("p5.48xlarge", "us-west-2b")
	fleet := w.fleet(w.into(id, types.MarketTypeCapacityBlock), 3, inBlock, gpu)
	block := func() types.CapacityReservation {
		return must(w.ec2.DescribeCapacityReservations(t.Context(), &ec2.DescribeCapacityReservationsInput{
			Filters: []types.Filter{{Name: aws.String("reservation-type"), Values: []string{"capacity-block"}}}}))(t).CapacityReservations[0]
	}
	expect := func(state types.CapacityReservationState, available int32) {
		t.Helper()
		if b := block(); b.State != state || *b.AvailableInstanceCount != available || b.EndDateType != types.EndDateTypeLimited || !b.EndDate.Equal(start.Add(25*time.Hour)) {
			t.Errorf("%s %d %s %s", b.State, *b.AvailableInstanceCount, b.EndDateType, b.EndDate)
		}
	}

	expect(types.CapacityReservationStateScheduled, 0)
	if out := w.createFleet(fleet); len(ids(out)) != 0 || *out.Errors[0].ErrorCode != "InsufficientInstanceCapacity" {
		t.Errorf("before its start: %+v", out)
	}
	w.clock.Step(time.Hour)
	expect(types.CapacityReservationStateActive, 2)
	w.order("quotas", Quota{Bucket: "p", CapacityType: "on-demand", VCPUs: 0}) // Counts no blocks.
	out := w.createFleet(fleet)
	if len(ids(out)) != 2 || len(out.Errors) != 1 || *out.Errors[0].ErrorCode != "InsufficientInstanceCapacity" || out.Instances[0].Lifecycle != types.InstanceLifecycleCapacityBlock {
		t.Fatalf("three of two: %+v", out)
	}
	expect(types.CapacityReservationStateActive, 0)
	gone, stays := ids(out)[0], ids(out)[1]
	i := w.instance(stays)
	if i.InstanceLifecycle != types.InstanceLifecycleTypeCapacityBlock || *i.CapacityReservationId != id {
		t.Errorf("%s in %s", i.InstanceLifecycle, *i.CapacityReservationId)
	}
	must(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{gone}}))(t)
	expect(types.CapacityReservationStateActive, 0) // Its place is free when it is gone.
	w.clock.Step(terminateDelay)
	expect(types.CapacityReservationStateActive, 1)

	notices := func() (n int, last map[string]any) {
		for _, m := range must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queueURL, MaxNumberOfMessages: 10}))(t).Messages {
			var e event
			if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
				t.Fatal(err)
			}
			if e.DetailType == "EC2 Capacity Reservation Instance Interruption Warning" {
				n, last = n+1, e.Detail
			}
		}
		return n, last
	}
	ends := start.Add(25 * time.Hour)
	w.clock.SetTime(ends.Add(-41 * time.Minute))
	_ = w.state()
	if n, _ := notices(); n != 0 {
		t.Errorf("%d notices 41 minutes before the end", n)
	}
	w.clock.Step(time.Minute)
	_ = w.state()
	if n, detail := notices(); n != 1 || detail["instance-id"] != stays || detail["instance-termination-time"] != ends.Add(-30*time.Minute).Format(time.RFC3339) {
		t.Errorf("%d notices 40 minutes before the end, the last %v", n, detail)
	}
	if s := w.instance(stays).State.Name; s != types.InstanceStateNameRunning {
		t.Errorf("40 minutes before the end it is %s", s)
	}
	w.clock.Step(10 * time.Minute)
	if s := w.instance(stays).State.Name; s != types.InstanceStateNameShuttingDown {
		t.Errorf("half an hour before the end it is %s", s)
	}
	w.clock.SetTime(ends)
	expect(types.CapacityReservationStateExpired, 0)
}

func TestWhatACapacityBlockRefuses(t *testing.T) {
	w := newWorld(t)
	block := w.reserve(Reservation{InstanceType: "p5.48xlarge", Zone: "us-west-2b", Count: 2, EndsIn: "24h"})
	second := w.reserve(Reservation{InstanceType: "p5.48xlarge", Zone: "us-west-2a", Count: 2, EndsIn: "24h"})
	plain := w.reserve(Reservation{InstanceType: "p5.48xlarge", Zone: "us-west-2b", Count: 2, Match: "targeted"})
	gpu := w.override("p5.48xlarge", "us-west-2b")
	for name, tc := range map[string]struct {
		template string
		kind     types.DefaultTargetCapacityType
		code     string
	}{
		"a template without the market":        {w.into(block, ""), inBlock, "InvalidParameterCombination"},
		"a block bought on demand":             {w.into(block, ""), onDemand, "InvalidParameterCombination"},
		"the market in a fleet on demand":      {w.into(block, types.MarketTypeCapacityBlock), onDemand, "InvalidParameterCombination"},
		"a reservation that is no block":       {w.into(plain, types.MarketTypeCapacityBlock), inBlock, "InvalidParameterCombination"},
		"the market without a target to go to": {w.into("", types.MarketTypeCapacityBlock), inBlock, "MissingParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			out := w.createFleet(w.fleet(tc.template, 1, tc.kind, gpu))
			if len(ids(out)) != 0 || *out.Errors[0].ErrorCode != tc.code {
				t.Errorf("%+v %s", out.Instances, *out.Errors[0].ErrorCode)
			}
		})
	}
	two := w.fleet(w.into(block, types.MarketTypeCapacityBlock), 1, inBlock, gpu)
	two.LaunchTemplateConfigs = append(two.LaunchTemplateConfigs,
		w.fleet(w.into(second, types.MarketTypeCapacityBlock), 1, inBlock, w.override("p5.48xlarge", "us-west-2a")).LaunchTemplateConfigs...)
	options := w.fleet(w.into(block, types.MarketTypeCapacityBlock), 1, inBlock, gpu)
	options.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyPrioritized}
	for name, in := range map[string]*ec2.CreateFleetInput{"two blocks in a fleet": two, "options for on-demand": options} {
		t.Run(name, func(t *testing.T) {
			_, err := w.ec2.CreateFleet(t.Context(), in)
			wantCode(t, err, "InvalidFleetConfig", http.StatusBadRequest)
		})
	}
	for name, r := range map[string]Reservation{
		"a type that is not sold in blocks": {InstanceType: "m5.large", Zone: "us-west-2a", Count: 1, EndsIn: "24h"},
		"an end before the start":           {InstanceType: "p5.48xlarge", Zone: "us-west-2b", Count: 1, StartsIn: "2h", EndsIn: "1h"},
		"an open block":                     {InstanceType: "p5.48xlarge", Zone: "us-west-2b", Count: 1, EndsIn: "24h", Match: "open"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, answer := w.post("/_sim/reservations", r); status != http.StatusBadRequest {
				t.Errorf("%d %v", status, answer)
			}
		})
	}
}
