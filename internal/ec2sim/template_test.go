package ec2sim

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
)

func TestTemplateRoundTrip(t *testing.T) {
	w := newWorld(t)
	data := w.templateData()
	data.SecurityGroupIds = nil
	data.NetworkInterfaces = []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{
		DeviceIndex: ptr(int32(0)), Groups: []string{w.sim.groups[0].id, w.sim.groups[1].id}, AssociatePublicIpAddress: ptr(false), DeleteOnTermination: ptr(true),
	}}
	data.InstanceMarketOptions = &types.LaunchTemplateInstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	data.Monitoring = &types.LaunchTemplatesMonitoringRequest{Enabled: ptr(true)}
	data.Placement = &types.LaunchTemplatePlacementRequest{AvailabilityZone: ptr("us-west-2a")}
	in := &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: ptr("t-1"), LaunchTemplateData: data, VersionDescription: ptr("first"), ClientToken: ptr("x"),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: tags("owner", "berth")}},
	}
	out := must(w.ec2.CreateLaunchTemplate(t.Context(), in))(t)
	id := *out.LaunchTemplate.LaunchTemplateId
	if *out.LaunchTemplate.LatestVersionNumber != 1 || *out.LaunchTemplate.DefaultVersionNumber != 1 || tagMap(out.LaunchTemplate.Tags)["owner"] != "berth" {
		t.Errorf("%+v", out.LaunchTemplate)
	}
	versions := must(w.ec2.DescribeLaunchTemplateVersions(t.Context(), &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id}))(t)
	v := versions.LaunchTemplateVersions[0]
	d := v.LaunchTemplateData
	if *v.VersionNumber != 1 || *v.VersionDescription != "first" || *d.ImageId != w.imageID("x86_64") || *d.UserData != *data.UserData || *d.IamInstanceProfile.Name != "berth-node" ||
		*d.BlockDeviceMappings[0].Ebs.VolumeSize != 50 || !*d.BlockDeviceMappings[0].Ebs.Encrypted || *d.MetadataOptions.HttpPutResponseHopLimit != 1 ||
		d.InstanceMarketOptions.MarketType != "spot" || !*d.Monitoring.Enabled || *d.Placement.AvailabilityZone != "us-west-2a" || len(d.TagSpecifications) != 2 {
		t.Errorf("%+v", d)
	}
	if diff := cmp.Diff(data.NetworkInterfaces[0].Groups, d.NetworkInterfaces[0].Groups); diff != "" {
		t.Error(diff)
	}
	// The same token makes nothing new, the same name does not either.
	again := must(w.ec2.CreateLaunchTemplate(t.Context(), in))(t)
	if *again.LaunchTemplate.LaunchTemplateId != id {
		t.Error("the same token made another template")
	}
	in.ClientToken = ptr("y")
	_, err := w.ec2.CreateLaunchTemplate(t.Context(), in)
	wantCode(t, err, "InvalidLaunchTemplateName.AlreadyExistsException", http.StatusBadRequest)

	data.InstanceType = "m5.large"
	second := must(w.ec2.CreateLaunchTemplateVersion(t.Context(), &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateName: ptr("t-1"), LaunchTemplateData: data}))(t)
	if *second.LaunchTemplateVersion.VersionNumber != 2 || *second.LaunchTemplateVersion.DefaultVersion {
		t.Errorf("%+v", second.LaunchTemplateVersion)
	}
	latest := must(w.ec2.DescribeLaunchTemplateVersions(t.Context(), &ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateId: &id, Versions: []string{"$Latest", "1"}}))(t)
	if len(latest.LaunchTemplateVersions) != 2 || latest.LaunchTemplateVersions[0].LaunchTemplateData.InstanceType != "m5.large" {
		t.Errorf("%+v", latest.LaunchTemplateVersions)
	}
	if all := must(w.ec2.DescribeLaunchTemplateVersions(t.Context(), &ec2.DescribeLaunchTemplateVersionsInput{Versions: []string{"$Latest"}}))(t); len(all.LaunchTemplateVersions) != 1 {
		t.Errorf("%+v", all)
	}

	_, err = w.ec2.DeleteLaunchTemplate(t.Context(), &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: &id, DryRun: ptr(true)})
	wantCode(t, err, "DryRunOperation", http.StatusPreconditionFailed)
	must(w.ec2.DeleteLaunchTemplate(t.Context(), &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: &id}))(t)
	_, err = w.ec2.DeleteLaunchTemplate(t.Context(), &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: &id})
	wantCode(t, err, "InvalidLaunchTemplateId.NotFound", http.StatusBadRequest)
}

func TestTemplatesByTagAndPage(t *testing.T) {
	w := newWorld(t)
	for n := range 5 {
		must(w.ec2.CreateLaunchTemplate(t.Context(), &ec2.CreateLaunchTemplateInput{
			LaunchTemplateName: ptr(fmt.Sprint("t-", n)), LaunchTemplateData: w.templateData(),
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: tags("n", fmt.Sprint(n%2))}},
		}))(t)
	}
	var names []string
	p := ec2.NewDescribeLaunchTemplatesPaginator(w.ec2, &ec2.DescribeLaunchTemplatesInput{MaxResults: ptr(int32(2)), Filters: []types.Filter{{Name: ptr("tag:n"), Values: []string{"0"}}}})
	for p.HasMorePages() {
		out := must(p.NextPage(t.Context()))(t)
		for _, lt := range out.LaunchTemplates {
			names = append(names, *lt.LaunchTemplateName)
		}
	}
	if diff := cmp.Diff([]string{"t-0", "t-2", "t-4"}, names); diff != "" {
		t.Error(diff)
	}
	_, err := w.ec2.DescribeLaunchTemplates(t.Context(), &ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{"t-0", "gone"}})
	wantCode(t, err, "InvalidLaunchTemplateName.NotFoundException", http.StatusBadRequest)
}

func TestTemplateRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*ec2.CreateLaunchTemplateInput)
		want   string
	}{
		"a short name":                 {func(in *ec2.CreateLaunchTemplateInput) { in.LaunchTemplateName = ptr("a") }, "InvalidLaunchTemplateName.MalformedException"},
		"user data that is not base64": {func(in *ec2.CreateLaunchTemplateInput) { in.LaunchTemplateData.UserData = ptr("#!/bin/sh") }, "InvalidUserData.Malformed"},
		"user data that is too long": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.UserData = ptr(base64.StdEncoding.EncodeToString(make([]byte, 16<<10+1)))
		}, "InvalidUserData.Malformed"},
		"groups twice": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.NetworkInterfaces = []types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{DeviceIndex: ptr(int32(0))}}
		}, "InvalidParameterCombination"},
		"a word for tokens": {func(in *ec2.CreateLaunchTemplateInput) { in.LaunchTemplateData.MetadataOptions.HttpTokens = "maybe" }, "InvalidParameterValue"},
		"no hops": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.MetadataOptions.HttpPutResponseHopLimit = ptr(int32(65))
		}, "InvalidParameterValue"},
		"the same device twice": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.BlockDeviceMappings = append(in.LaunchTemplateData.BlockDeviceMappings, in.LaunchTemplateData.BlockDeviceMappings[0])
		}, "InvalidBlockDeviceMapping"},
		"a volume of nothing": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.BlockDeviceMappings[0].Ebs.VolumeSize = ptr(int32(0))
		}, "InvalidParameterValue"},
		"a kind of volume that is none": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.BlockDeviceMappings[0].Ebs.VolumeType = "gp9"
		}, "InvalidParameterValue"},
		"tags of a kind that templates do not tag": {func(in *ec2.CreateLaunchTemplateInput) {
			in.LaunchTemplateData.TagSpecifications[0].ResourceType = types.ResourceTypeVpc
		}, "InvalidParameterValue"},
		"tags for something else": {func(in *ec2.CreateLaunchTemplateInput) {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("a", "b")}}
		}, "InvalidParameterValue"},
		"a member that is not implemented": {func(in *ec2.CreateLaunchTemplateInput) { in.LaunchTemplateData.KernelId = ptr("aki-1") }, "UnknownParameter"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			in := &ec2.CreateLaunchTemplateInput{LaunchTemplateName: ptr("t-1"), LaunchTemplateData: w.templateData()}
			tc.change(in)
			_, err := w.ec2.CreateLaunchTemplate(t.Context(), in)
			wantCode(t, err, tc.want, http.StatusBadRequest)
			if n := len(w.state().LaunchTemplates); n != 0 {
				t.Errorf("%d templates were made all the same", n)
			}
		})
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	id, lt := w.one(), w.template("t-9")
	add := func(list []types.Tag, resources ...string) error {
		_, err := w.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: resources, Tags: list})
		return err
	}
	remove := func(list []types.Tag, resources ...string) error {
		_, err := w.ec2.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: resources, Tags: list})
		return err
	}
	if err := add(tags("a", "1", "b", "2"), id, lt); err != nil {
		t.Fatal(err)
	}
	if err := add(tags("a", "3"), id); err != nil {
		t.Fatal(err)
	}
	got := tagMap(w.instance(id).Tags)
	if got["a"] != "3" || got["b"] != "2" {
		t.Errorf("%v", got)
	}
	// A tag with a value goes only where it has that value.
	if err := remove(tags("a", "1"), id, lt); err != nil {
		t.Fatal(err)
	}
	if err := remove([]types.Tag{{Key: ptr("b")}}, id); err != nil {
		t.Fatal(err)
	}
	got = tagMap(w.instance(id).Tags)
	if _, there := got["b"]; got["a"] != "3" || there {
		t.Errorf("%v", got)
	}
	if _, there := w.sim.tags[lt]["a"]; there {
		t.Error("the template still has the tag")
	}
	many := []string{}
	for n := range 50 {
		many = append(many, fmt.Sprint("k", n), "v")
	}
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"an instance that is not there": {add(tags("a", "b"), id, "i-00000000000000000"), "InvalidInstanceID.NotFound"},
		"a template that is not there":  {add(tags("a", "b"), "lt-0"), "InvalidLaunchTemplateId.NotFound"},
		"an id of nothing":              {add(tags("a", "b"), "x"), "InvalidID"},
		"the reserved prefix":           {add(tags("aws:a", "b"), id), "InvalidParameterValue"},
		"an empty key":                  {add(tags("", "b"), id), "InvalidParameterValue"},
		"the same key twice":            {add(tags("z", "1", "z", "2"), id), "InvalidParameterValue"},
		"more than fifty":               {add(tags(many...), id), "TagLimitExceeded"},
		"removing a tag of AWS's":       {remove([]types.Tag{{Key: ptr("aws:ec2:fleet-id")}}, id), "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, tc.err, tc.want, http.StatusBadRequest) })
	}
	if got := tagMap(w.instance(id).Tags); got["k0"] != "" || got["z"] != "" {
		t.Error("a refused call left tags behind")
	}
	_, err := w.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: tags("dry", "run"), DryRun: aws.Bool(true)})
	wantCode(t, err, "DryRunOperation", http.StatusPreconditionFailed)
}
