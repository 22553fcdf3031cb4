package ec2

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// ignoreSDK leaves the SDK's private marker out of comparisons.
var ignoreSDK = cmpopts.IgnoreUnexported(
	types.LaunchTemplateBlockDeviceMappingRequest{}, types.LaunchTemplateEbsBlockDeviceRequest{},
	types.LaunchTemplateInstanceMetadataOptionsRequest{})

func TestBlockDevices(t *testing.T) {
	device := func(name string, ebs types.LaunchTemplateEbsBlockDeviceRequest) types.LaunchTemplateBlockDeviceMappingRequest {
		return types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: aws.String(name), Ebs: &ebs}
	}
	gp3 := func(gib int32) types.LaunchTemplateEbsBlockDeviceRequest {
		return types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(gib), VolumeType: types.VolumeTypeGp3, Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true)}
	}
	size := func(s string) *resource.Quantity { return ptr(resource.MustParse(s)) }
	xvda := Image{RootDevice: "/dev/xvda", VolumeGiB: map[string]int32{"/dev/xvda": 8}}
	large := Image{RootDevice: "/dev/xvda", VolumeGiB: map[string]int32{"/dev/xvda": 30, "/dev/xvdb": 40}}
	tests := map[string]struct {
		family  v1alpha1.AMIFamily
		devices []v1alpha1.BlockDevice
		image   Image
		want    []types.LaunchTemplateBlockDeviceMappingRequest
		pods    int64 // GiB for pods' ephemeral storage
	}{
		"the default is an encrypted root volume": {v1alpha1.AMIFamilyAL2023, nil, xvda, []types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(20))}, 20},
		"an image's own root device":              {v1alpha1.AMIFamilyCustom, nil, Image{RootDevice: "/dev/sda1"}, []types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/sda1", gp3(20))}, 20},
		"Bottlerocket keeps pods on a second volume": {v1alpha1.AMIFamilyBottlerocket, nil, Image{RootDevice: "/dev/xvda", VolumeGiB: map[string]int32{"/dev/xvda": 2, "/dev/xvdb": 20}},
			[]types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(4)), device("/dev/xvdb", gp3(20))}, 20},
		"no volume is smaller than the image's snapshot": {v1alpha1.AMIFamilyAL2023, nil, large, []types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(30))}, 30},
		"nor are Bottlerocket's two": {v1alpha1.AMIFamilyBottlerocket, nil, large,
			[]types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(30)), device("/dev/xvdb", gp3(40))}, 40},
		"nor one that is named without a size": {v1alpha1.AMIFamilyAL2023, []v1alpha1.BlockDevice{{DeviceName: "/dev/xvda"}}, large,
			[]types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(30))}, 30},
		"a size that is named holds": {v1alpha1.AMIFamilyAL2023, []v1alpha1.BlockDevice{{DeviceName: "/dev/xvda", VolumeSize: size("25Gi")}}, large,
			[]types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvda", gp3(25))}, 25},
		"gaps are filled, sizes rounded up": {v1alpha1.AMIFamilyAL2023, []v1alpha1.BlockDevice{
			{DeviceName: "/dev/xvda", VolumeSize: size("100G"), VolumeType: "io2", IOPS: aws.Int32(3000), Encrypted: aws.Bool(false), DeleteOnTermination: aws.Bool(false), KMSKeyID: "key"},
			{DeviceName: "/dev/xvdb", Throughput: aws.Int32(200)},
		}, xvda, []types.LaunchTemplateBlockDeviceMappingRequest{
			device("/dev/xvda", types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(94), VolumeType: "io2", Iops: aws.Int32(3000), Encrypted: aws.Bool(false), DeleteOnTermination: aws.Bool(false), KmsKeyId: aws.String("key")}),
			device("/dev/xvdb", types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(20), VolumeType: "gp3", Throughput: aws.Int32(200), Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true)}),
		}, 94},
		"a snapshot brings its size; the marked device holds the pods": {v1alpha1.AMIFamilyAL2023, []v1alpha1.BlockDevice{
			{DeviceName: "/dev/xvda", SnapshotID: "snap-1"},
			{DeviceName: "/dev/xvdb", VolumeSize: size("50Gi"), RootVolume: true},
		}, xvda, []types.LaunchTemplateBlockDeviceMappingRequest{
			device("/dev/xvda", types.LaunchTemplateEbsBlockDeviceRequest{VolumeType: "gp3", SnapshotId: aws.String("snap-1"), Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true)}),
			device("/dev/xvdb", gp3(50)),
		}, 50},
		"without a word on the root device it is as the image has it": {v1alpha1.AMIFamilyAL2023, []v1alpha1.BlockDevice{{DeviceName: "/dev/xvdz", VolumeSize: size("1Ti")}}, xvda,
			[]types.LaunchTemplateBlockDeviceMappingRequest{device("/dev/xvdz", gp3(1024))}, 8},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, blockDevices(tc.family, tc.devices, tc.image), ignoreSDK); diff != "" {
				t.Error(diff)
			}
			if got := rootVolumeBytes(tc.family, tc.devices, []Image{tc.image}); got != tc.pods*gibibyte {
				t.Errorf("pods' storage is %d bytes, want %d GiB", got, tc.pods)
			}
		})
	}
}

// TestVolumeSizesStayWithinBounds: those too that were stored before the CRD
// refused them.
func TestVolumeSizesStayWithinBounds(t *testing.T) {
	for size, want := range map[string]int32{"-5Gi": 0, "0": 0, "100": 1, "1Gi": 1, "1025Mi": 2, "64Ti": 65536, "65Ti": 65536, "16Ei": 65536} {
		if got := volumeGiB(v1alpha1.BlockDevice{VolumeSize: ptr(resource.MustParse(size))}, Image{}); got != want {
			t.Errorf("%s: %d GiB, want %d", size, got, want)
		}
	}
}

func TestMetadataOptions(t *testing.T) {
	got := metadataOptions(v1alpha1.MetadataOptions{})
	want := &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpEndpoint: "enabled", HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(1)}
	if diff := cmp.Diff(want, got, ignoreSDK); diff != "" {
		t.Errorf("unset: %s", diff)
	}
	got = metadataOptions(v1alpha1.MetadataOptions{HTTPEndpoint: "disabled", HTTPTokens: "optional", HTTPPutResponseHopLimit: 2})
	want = &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpEndpoint: "disabled", HttpTokens: "optional", HttpPutResponseHopLimit: aws.Int32(2)}
	if diff := cmp.Diff(want, got, ignoreSDK); diff != "" {
		t.Errorf("set: %s", diff)
	}
}

func TestTemplateNameFollowsContentAndCluster(t *testing.T) {
	in := templateInput{spec: &v1alpha1.EC2{}, image: Image{ID: "ami-1"}, userData: "x", securityGroups: []string{"sg-1"}, instanceProfile: "p"}
	name := func(uid string, change func(*templateInput)) string {
		t.Helper()
		c := in
		change(&c)
		n, err := templateName("demo", uid, templateData(c))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	same := name("u", func(*templateInput) {})
	if again := name("u", func(*templateInput) {}); again != same {
		t.Errorf("equal content, but %s and %s", same, again)
	}
	if len(same) > 128 {
		t.Errorf("EC2 takes 128 characters: %s", same)
	}
	for what, other := range map[string]string{
		"another cluster of that name": name("v", func(*templateInput) {}),
		"another image":                name("u", func(i *templateInput) { i.image.ID = "ami-2" }),
		"another user data":            name("u", func(i *templateInput) { i.userData = "y" }),
		"another group":                name("u", func(i *templateInput) { i.securityGroups = []string{"sg-2"} }),
		"another profile":              name("u", func(i *templateInput) { i.instanceProfile = "q" }),
		"other tags":                   name("u", func(i *templateInput) { i.tags = map[string]string{"team": "web"} }),
		"other metadata options": name("u", func(i *templateInput) {
			i.spec = &v1alpha1.EC2{MetadataOptions: v1alpha1.MetadataOptions{HTTPTokens: "optional"}}
		}),
	} {
		if other == same {
			t.Errorf("%s has the same template", what)
		}
	}
}
