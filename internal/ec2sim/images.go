package ec2sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/internal/ec2sim/kubelet"
	"github.com/berth-dev/berth/internal/ec2sim/query"
	"github.com/berth-dev/berth/internal/ec2sim/userdata"
)

// kubernetesVersions are the versions that have images.
var kubernetesVersions = []string{"1.34", "1.35", "1.36", "1.37"}

// image is a machine image.
type image struct {
	id, name, description, arch string
	owner                       string
	created, deprecated         time.Time
	devices                     []device
	boot                        kubelet.Image
	// dataDevice is the device that holds the kubelet's data.
	dataDevice string
}

type device struct {
	name string
	gib  int
}

// The accounts that own the images: EKS's and Bottlerocket's. Both go by the
// alias amazon.
const (
	eksOwner          = "602401143452"
	bottlerocketOwner = "092701018921"
)

// release is one build of an image line; the last one is what the
// "recommended" and "latest" parameters name.
type release struct {
	date    time.Time
	al2023  string // the date in the image's name
	version string // Bottlerocket's version
}

var releases = []release{
	{time.Date(2026, 5, 12, 18, 4, 0, 0, time.UTC), "v20260512", "1.58.0"},
	{time.Date(2026, 7, 1, 17, 31, 0, 0, time.UTC), "v20260701", "1.60.1"},
}

// parameter is a version of an SSM parameter.
type parameter struct {
	value   string
	changed time.Time
}

// buildImages makes the images and the public SSM parameters that name them
// ("Retrieve recommended Amazon Linux AMI IDs", EKS user guide; "Finding an
// AMI", Bottlerocket).
func (s *Sim) buildImages() {
	s.params = map[string][]parameter{}
	for _, version := range kubernetesVersions {
		for _, r := range releases {
			for _, arch := range []string{"x86_64", "arm64"} {
				for _, nvidia := range []bool{false, true} {
					s.addAL2023(version, arch, nvidia, r)
					s.addBottlerocket(version, arch, nvidia, r)
				}
			}
		}
	}
}

func kubeletVersion(version string) string { return "v" + version + ".2-eks-3abbec1" }

func (s *Sim) addAL2023(version, arch string, nvidia bool, r release) {
	variant := "standard"
	if nvidia {
		variant = "nvidia"
	}
	name := fmt.Sprintf("amazon-eks-node-al2023-%s-%s-%s-%s", arch, variant, version, r.al2023)
	img := &image{
		id: s.newID("ami-"), name: name, owner: eksOwner, arch: arch, created: r.date,
		description: fmt.Sprintf("EKS-optimized Kubernetes node based on Amazon Linux 2023, (k8s: %s, containerd: 2.1.*)", version),
		devices:     []device{{"/dev/xvda", 20}}, dataDevice: "/dev/xvda",
		boot: kubelet.Image{
			Family: userdata.AL2023, NVIDIA: nvidia, KubeletVersion: kubeletVersion(version),
			OS: "Amazon Linux 2023.8." + strings.TrimPrefix(r.al2023, "v"), Kernel: "6.12.40-63.114.amzn2023." + goLinuxArch(arch), Runtime: "containerd://2.1.4",
		},
	}
	s.addImage(img)
	base := fmt.Sprintf("/aws/service/eks/optimized-ami/%s/amazon-linux-2023/%s/%s/", version, arch, variant)
	for _, folder := range []string{"recommended", name} {
		s.setParameter(base+folder+"/image_id", img.id, r.date)
		s.setParameter(base+folder+"/image_name", name, r.date)
		s.setParameter(base+folder+"/release_version", version+".2-"+strings.TrimPrefix(r.al2023, "v"), r.date)
	}
}

func (s *Sim) addBottlerocket(version, arch string, nvidia bool, r release) {
	variant := "aws-k8s-" + version
	if nvidia {
		variant += "-nvidia"
	}
	img := &image{
		id: s.newID("ami-"), name: fmt.Sprintf("bottlerocket-%s-%s-v%s-1a2b3c4d", variant, arch, r.version), owner: bottlerocketOwner, arch: arch, created: r.date,
		devices: []device{{"/dev/xvda", 4}, {"/dev/xvdb", 20}}, dataDevice: "/dev/xvdb",
		boot: kubelet.Image{
			Family: userdata.Bottlerocket, NVIDIA: nvidia, KubeletVersion: kubeletVersion(version),
			OS: fmt.Sprintf("Bottlerocket OS %s (%s)", r.version, variant), Kernel: "6.12.40", Runtime: "containerd://2.1.4+bottlerocket",
		},
	}
	s.addImage(img)
	for _, folder := range []string{"latest", r.version} {
		base := fmt.Sprintf("/aws/service/bottlerocket/%s/%s/%s/", variant, arch, folder)
		s.setParameter(base+"image_id", img.id, r.date)
		s.setParameter(base+"image_version", r.version+"-1a2b3c4d", r.date)
	}
}

func goLinuxArch(arch string) string {
	if arch == "arm64" {
		return "aarch64"
	}
	return arch
}

func (s *Sim) addImage(img *image) {
	// EKS images are deprecated two years after they are made.
	img.deprecated = img.created.AddDate(2, 0, 0)
	s.images = append(s.images, img)
	s.tags[img.id] = map[string]string{}
}

// Deprecation is when the owner of an image begins to advise against it.
type Deprecation struct {
	ImageID string    `json:"imageId"`
	At      time.Time `json:"at"`
}

func (s *Sim) deprecate(in *Deprecation) error {
	img, err := s.image(in.ImageID)
	if err != nil {
		return err
	}
	img.deprecated = in.At
	return nil
}

func (s *Sim) setParameter(name, value string, at time.Time) {
	s.params[name] = append(s.params[name], parameter{value, at})
}

func (s *Sim) image(id string) (*image, error) {
	for _, img := range s.images {
		if img.id == id {
			return img, nil
		}
	}
	if !strings.HasPrefix(id, "ami-") {
		return nil, errf("InvalidAMIID.Malformed", "Invalid id: \"%s\" (expecting \"ami-...\")", id)
	}
	return nil, errf("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
}

type ebsItem struct {
	DeleteOnTermination *bool  `xml:"deleteOnTermination"`
	Iops                *int32 `xml:"iops"`
	VolumeSize          *int32 `xml:"volumeSize"`
	VolumeType          string `xml:"volumeType,omitempty"`
	Encrypted           *bool  `xml:"encrypted"`
	SnapshotID          string `xml:"snapshotId,omitempty"`
}

type deviceItem struct {
	Name string  `xml:"deviceName"`
	Ebs  ebsItem `xml:"ebs"`
}

type imageItem struct {
	ID              string       `xml:"imageId"`
	Location        string       `xml:"imageLocation"`
	State           string       `xml:"imageState"`
	OwnerID         string       `xml:"imageOwnerId"`
	OwnerAlias      string       `xml:"imageOwnerAlias"`
	Created         string       `xml:"creationDate"`
	Public          bool         `xml:"isPublic"`
	Arch            string       `xml:"architecture"`
	Type            string       `xml:"imageType"`
	Name            string       `xml:"name"`
	Description     string       `xml:"description,omitempty"`
	RootDeviceType  string       `xml:"rootDeviceType"`
	RootDeviceName  string       `xml:"rootDeviceName"`
	Devices         []deviceItem `xml:"blockDeviceMapping>item"`
	Virtualization  string       `xml:"virtualizationType"`
	Hypervisor      string       `xml:"hypervisor"`
	EnaSupport      bool         `xml:"enaSupport"`
	PlatformDetails string       `xml:"platformDetails"`
	UsageOperation  string       `xml:"usageOperation"`
	BootMode        string       `xml:"bootMode"`
	ImdsSupport     string       `xml:"imdsSupport"`
	Deprecation     string       `xml:"deprecationTime"`
	Tags            []tag        `xml:"tagSet>item"`
}

func (s *Sim) describeImages(_ *call, in *struct {
	describeInput
	ImageIDs          []string `q:"ImageId"`
	Owners            []string `q:"Owner"`
	ExecutableBy      []string
	IncludeDeprecated bool
	IncludeDisabled   bool
}) (any, error) {
	all := s.images
	if len(in.ImageIDs) > 0 {
		all = nil
		for _, id := range in.ImageIDs {
			img, err := s.image(id)
			if err != nil {
				return nil, err
			}
			all = append(all, img)
		}
	}
	all = slices.DeleteFunc(slices.Clone(all), func(img *image) bool {
		if !in.IncludeDeprecated && s.clock.Now().After(img.deprecated) {
			return true // Who is not the owner must ask for them ("Deprecate an AMI").
		}
		// self is this account, which owns no image.
		return len(in.Owners) > 0 && !slices.Contains(in.Owners, img.owner) && !slices.Contains(in.Owners, "amazon")
	})
	kept, err := apply(all, in.Filters, fields[*image]{
		"image-id":            one(func(i *image) string { return i.id }),
		"name":                one(func(i *image) string { return i.name }),
		"architecture":        one(func(i *image) string { return i.arch }),
		"owner-id":            one(func(i *image) string { return i.owner }),
		"owner-alias":         one(func(*image) string { return "amazon" }),
		"state":               one(func(*image) string { return "available" }),
		"is-public":           one(func(*image) string { return "true" }),
		"image-type":          one(func(*image) string { return "machine" }),
		"root-device-type":    one(func(*image) string { return "ebs" }),
		"root-device-name":    one(func(i *image) string { return i.devices[0].name }),
		"virtualization-type": one(func(*image) string { return "hvm" }),
		"description":         one(func(i *image) string { return i.description }),
		"creation-date":       one(func(i *image) string { return query.Time(i.created) }),
		"platform-details":    one(func(*image) string { return "Linux/UNIX" }),
	}, func(i *image) map[string]string { return s.tags[i.id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{1, 1000, 0}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []imageItem
	for _, i := range list {
		item := imageItem{
			ID: i.id, Location: "amazon/" + i.name, State: "available", OwnerID: i.owner, OwnerAlias: "amazon", Created: query.Time(i.created), Public: true, Arch: i.arch,
			Type: "machine", Name: i.name, Description: i.description, RootDeviceType: "ebs", RootDeviceName: i.devices[0].name, Virtualization: "hvm", Hypervisor: "xen",
			EnaSupport: true, PlatformDetails: "Linux/UNIX", UsageOperation: "RunInstances", BootMode: "uefi-preferred", ImdsSupport: "v2.0",
			Deprecation: query.Time(i.deprecated), Tags: tagList(s.tags[i.id]),
		}
		for _, d := range i.devices {
			yes, no, size := true, false, int32(d.gib)
			item.Devices = append(item.Devices, deviceItem{d.name, ebsItem{DeleteOnTermination: &yes, Encrypted: &no, VolumeSize: &size, VolumeType: "gp3", SnapshotID: "snap-" + strings.TrimPrefix(i.id, "ami-")}})
		}
		items = append(items, item)
	}
	return &struct {
		Items []imageItem `xml:"imagesSet>item"`
		Next  string      `xml:"nextToken,omitempty"`
	}{items, next}, nil
}
