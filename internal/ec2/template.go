package ec2

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	gibibyte = int64(1) << 30
	// defaultVolumeGiB is the size of a volume that has none of its own, and is not
	// larger in the image.
	defaultVolumeGiB = 20
	// largestVolume in bytes ("Amazon EBS volume types").
	largestVolume = 64 << 40
	// bottlerocketOSGiB is the size of Bottlerocket's system volume, where it is not
	// larger in the image: two copies of the system, and nothing that grows.
	bottlerocketOSGiB = 4
	// templateTTL: a template never changes. It is forgotten when EC2 says that
	// it is gone.
	templateTTL = 24 * time.Hour
	// firstVersion of a launch template: what Berth creates, and never adds to.
	firstVersion = "1"
)

// Root devices of the families' images, and where pods' ephemeral storage is.
const (
	rootDevice             = "/dev/xvda"
	bottlerocketDataDevice = "/dev/xvdb"
)

// Template is a launch template in one version.
type Template struct{ ID, Version string }

// templateInput is all that a launch template of Berth's is made from.
type templateInput struct {
	spec            *v1alpha1.EC2
	image           Image
	userData        string
	securityGroups  []string
	instanceProfile string
	// reservation to launch into; without an ID for none.
	reservation Reservation
	// tags of the network interface.
	tags map[string]string
}

// templateData builds the content of a launch template.
func templateData(in templateInput) *types.RequestLaunchTemplateData {
	d := &types.RequestLaunchTemplateData{
		ImageId:             aws.String(in.image.ID),
		SecurityGroupIds:    in.securityGroups,
		BlockDeviceMappings: blockDevices(family(in.spec), in.spec.BlockDevices, in.image),
		MetadataOptions:     metadataOptions(in.spec.MetadataOptions),
	}
	if len(in.tags) > 0 {
		d.TagSpecifications = []types.LaunchTemplateTagSpecificationRequest{{ResourceType: types.ResourceTypeNetworkInterface, Tags: tagList(in.tags)}}
	}
	if in.userData != "" {
		d.UserData = aws.String(base64.StdEncoding.EncodeToString([]byte(in.userData)))
	}
	if in.reservation.ID != "" {
		d.CapacityReservationSpecification = &types.LaunchTemplateCapacityReservationSpecificationRequest{
			CapacityReservationTarget: &types.CapacityReservationTarget{CapacityReservationId: aws.String(in.reservation.ID)}}
	}
	if in.reservation.Block {
		d.InstanceMarketOptions = &types.LaunchTemplateInstanceMarketOptionsRequest{MarketType: types.MarketTypeCapacityBlock}
	}
	if in.spec.PlacementGroup != "" {
		d.Placement = &types.LaunchTemplatePlacementRequest{GroupName: aws.String(in.spec.PlacementGroup)}
	}
	if in.instanceProfile != "" {
		d.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: aws.String(in.instanceProfile)}
	}
	return d
}

// metadataOptions fills in the CRD's defaults: IMDSv2 only, one hop.
func metadataOptions(m v1alpha1.MetadataOptions) *types.LaunchTemplateInstanceMetadataOptionsRequest {
	out := &types.LaunchTemplateInstanceMetadataOptionsRequest{
		HttpEndpoint:            types.LaunchTemplateInstanceMetadataEndpointStateEnabled,
		HttpTokens:              types.LaunchTemplateHttpTokensStateRequired,
		HttpPutResponseHopLimit: aws.Int32(1),
	}
	if m.HTTPEndpoint != "" {
		out.HttpEndpoint = types.LaunchTemplateInstanceMetadataEndpointState(m.HTTPEndpoint)
	}
	if m.HTTPTokens != "" {
		out.HttpTokens = types.LaunchTemplateHttpTokensState(m.HTTPTokens)
	}
	if m.HTTPPutResponseHopLimit != 0 {
		out.HttpPutResponseHopLimit = aws.Int32(m.HTTPPutResponseHopLimit)
	}
	return out
}

// podsDevice is the device that holds pods' ephemeral storage.
func podsDevice(f v1alpha1.AMIFamily, image Image) string {
	switch {
	case f == v1alpha1.AMIFamilyBottlerocket:
		return bottlerocketDataDevice
	case image.RootDevice != "":
		return image.RootDevice
	default:
		return rootDevice
	}
}

// blockDevices of an instance: those of the Provisioner with their gaps filled,
// or the family's default.
func blockDevices(f v1alpha1.AMIFamily, devices []v1alpha1.BlockDevice, image Image) []types.LaunchTemplateBlockDeviceMappingRequest {
	if len(devices) == 0 {
		volume := func(device string, gib int32) types.LaunchTemplateBlockDeviceMappingRequest {
			return types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: aws.String(device), Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{
				VolumeSize: aws.Int32(max(gib, image.VolumeGiB[device])), VolumeType: types.VolumeTypeGp3,
				Encrypted: aws.Bool(true), DeleteOnTermination: aws.Bool(true)}}
		}
		out := []types.LaunchTemplateBlockDeviceMappingRequest{volume(podsDevice(f, image), defaultVolumeGiB)}
		if f == v1alpha1.AMIFamilyBottlerocket {
			out = append([]types.LaunchTemplateBlockDeviceMappingRequest{volume(rootDevice, bottlerocketOSGiB)}, out...)
		}
		return out
	}
	out := make([]types.LaunchTemplateBlockDeviceMappingRequest, 0, len(devices))
	for _, d := range devices {
		ebs := &types.LaunchTemplateEbsBlockDeviceRequest{
			VolumeType:          types.VolumeTypeGp3,
			Iops:                d.IOPS,
			Throughput:          d.Throughput,
			Encrypted:           aws.Bool(d.Encrypted == nil || *d.Encrypted),
			DeleteOnTermination: aws.Bool(d.DeleteOnTermination == nil || *d.DeleteOnTermination),
		}
		if d.VolumeType != "" {
			ebs.VolumeType = types.VolumeType(d.VolumeType)
		}
		if d.KMSKeyID != "" {
			ebs.KmsKeyId = aws.String(d.KMSKeyID)
		}
		if d.SnapshotID != "" {
			ebs.SnapshotId = aws.String(d.SnapshotID)
		}
		if gib := volumeGiB(d, image); gib > 0 {
			ebs.VolumeSize = aws.Int32(gib)
		}
		out = append(out, types.LaunchTemplateBlockDeviceMappingRequest{DeviceName: aws.String(d.DeviceName), Ebs: ebs})
	}
	return out
}

// volumeGiB rounds a volume's size up to whole GiB, at most the largest that there
// is; without one it is at least the image's. 0 leaves the size to the snapshot
// that the volume is made from.
func volumeGiB(d v1alpha1.BlockDevice, image Image) int32 {
	switch {
	case d.VolumeSize != nil:
		return int32((min(max(d.VolumeSize.Value(), 0), largestVolume) + gibibyte - 1) / gibibyte)
	case d.SnapshotID != "":
		return 0
	default:
		return max(defaultVolumeGiB, image.VolumeGiB[d.DeviceName])
	}
}

// rootVolumeBytes is the size of the volume that holds pods' ephemeral storage
// on the smallest of the images.
func rootVolumeBytes(f v1alpha1.AMIFamily, devices []v1alpha1.BlockDevice, images []Image) int64 {
	if len(images) == 0 {
		images = []Image{{}}
	}
	smallest := int32(0)
	for _, image := range images {
		device := podsDevice(f, image)
		if i := slices.IndexFunc(devices, func(d v1alpha1.BlockDevice) bool { return d.RootVolume }); i >= 0 {
			device = devices[i].DeviceName
		}
		size := image.VolumeGiB[device]
		for _, d := range blockDevices(f, devices, image) {
			if aws.ToString(d.DeviceName) == device && d.Ebs.VolumeSize != nil {
				size = *d.Ebs.VolumeSize
			}
		}
		if size > 0 && (smallest == 0 || size < smallest) {
			smallest = size
		}
	}
	return int64(cmp.Or(smallest, defaultVolumeGiB)) * gibibyte
}

// volumesOf counts the EBS volumes of an instance that runs an image with these
// devices: an image's volumes are there whether the template names them or not.
func volumesOf(image Image, devices []types.LaunchTemplateBlockDeviceMappingRequest) int {
	n := len(devices)
	for d := range image.VolumeGiB {
		if !slices.ContainsFunc(devices, func(o types.LaunchTemplateBlockDeviceMappingRequest) bool { return aws.ToString(o.DeviceName) == d }) {
			n++
		}
	}
	return n
}

// templateName is a function of the content and the cluster, so that equal
// content finds the template that is there already, after a restart too.
func templateName(clusterName, clusterUID string, d *types.RequestLaunchTemplateData) (string, error) {
	content, err := json.Marshal(d)
	if err != nil {
		return "", fmt.Errorf("hashing a launch template: %w", err)
	}
	sum := sha256.Sum256(append(content, clusterUID...))
	return "berth-" + clusterName + "-" + hex.EncodeToString(sum[:])[:20], nil
}

// ensureTemplate returns the launch template with this content, and creates it
// where there is none yet.
func (c *Cloud) ensureTemplate(ctx context.Context, d *types.RequestLaunchTemplateData) (Template, error) {
	name, err := templateName(c.cfg.ClusterName, c.cfg.ClusterUID, d)
	if err != nil {
		return Template{}, err
	}
	return c.templates.get(ctx, name, func(ctx context.Context) (Template, time.Duration, error) {
		t, err := c.findTemplate(ctx, name)
		if isNoTemplate(err) {
			t, err = c.createTemplate(ctx, name, d)
		}
		if codeOf(err) == "InvalidLaunchTemplateName.AlreadyExistsException" {
			t, err = c.findTemplate(ctx, name) // Somebody was faster: another leader, or this one's lost reply.
		}
		return t, templateTTL, err
	})
}

// isNoTemplate reports whether EC2 has no template of that name.
func isNoTemplate(err error) bool {
	return codeOf(err) == "InvalidLaunchTemplateName.NotFoundException"
}

func (c *Cloud) findTemplate(ctx context.Context, name string) (Template, error) {
	got, err := c.ec2.DescribeLaunchTemplates(ctx, &ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{name}})
	if err != nil {
		return Template{}, translate("DescribeLaunchTemplates", err)
	}
	if len(got.LaunchTemplates) == 0 {
		return Template{}, &ConfigError{Fault: Fault{Action: "DescribeLaunchTemplates", Code: "InvalidLaunchTemplateName.NotFoundException"}}
	}
	return Template{ID: aws.ToString(got.LaunchTemplates[0].LaunchTemplateId), Version: firstVersion}, nil
}

func (c *Cloud) createTemplate(ctx context.Context, name string, d *types.RequestLaunchTemplateData) (Template, error) {
	got, err := c.ec2.CreateLaunchTemplate(ctx, &ec2.CreateLaunchTemplateInput{
		LaunchTemplateName: aws.String(name),
		LaunchTemplateData: d,
		TagSpecifications:  []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: tagList(c.clusterTags())}},
	})
	if err != nil {
		return Template{}, translate("CreateLaunchTemplate", err)
	}
	if got.LaunchTemplate == nil || got.LaunchTemplate.LaunchTemplateId == nil {
		return Template{}, &CallError{Kind: ErrUnknown, Fault: Fault{Action: "CreateLaunchTemplate", Message: "the answer names no template"}}
	}
	return Template{ID: *got.LaunchTemplate.LaunchTemplateId, Version: firstVersion}, nil
}

// DeleteUnusedTemplates deletes this cluster's launch templates that are older
// than age and whose id is not in use. A launch that needs one again creates
// it again. It returns how many it deleted.
func (c *Cloud) DeleteUnusedTemplates(ctx context.Context, inUse map[string]bool, age time.Duration) (int, error) {
	p := ec2.NewDescribeLaunchTemplatesPaginator(c.ec2, &ec2.DescribeLaunchTemplatesInput{
		Filters: c.clusterFilters(), MaxResults: aws.Int32(200)})
	deleted := 0
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return deleted, fmt.Errorf("collecting launch templates: %w", translate("DescribeLaunchTemplates", err))
		}
		for _, t := range page.LaunchTemplates {
			id := aws.ToString(t.LaunchTemplateId)
			if inUse[id] || !c.owns(t.Tags) || time.Since(aws.ToTime(t.CreateTime)) < age {
				continue
			}
			// Forgotten first, so that no launch is prepared with it meanwhile.
			c.templates.expire()
			if _, err := c.ec2.DeleteLaunchTemplate(ctx, &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: t.LaunchTemplateId}); err != nil {
				err = translate("DeleteLaunchTemplate", err)
				if code := codeOf(err); code == "InvalidLaunchTemplateId.NotFound" {
					continue
				}
				return deleted, fmt.Errorf("collecting launch template %s: %w", id, err)
			}
			deleted++
		}
	}
	return deleted, nil
}

// interfaceTags of what is launched for a Provisioner: the user's, over which
// ours win. A template is shared by claims, so that none of theirs are there.
func (c *Cloud) interfaceTags(provisioner string, e *v1alpha1.EC2) map[string]string {
	tags := c.withClusterTags(e.Tags)
	tags[v1alpha1.TagProvisioner] = provisioner
	return tags
}

// withClusterTags are the user's tags and, over them, clusterTags.
func (c *Cloud) withClusterTags(tags map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, tags)
	maps.Copy(out, c.clusterTags())
	return out
}

// clusterTags are on everything that Berth creates.
func (c *Cloud) clusterTags() map[string]string {
	return map[string]string{
		v1alpha1.TagClusterPrefix + c.cfg.ClusterName: "owned",
		v1alpha1.TagClusterUID:                        c.cfg.ClusterUID,
	}
}
