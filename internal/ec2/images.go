package ec2

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// paramsPage is the most names that GetParameters takes.
const paramsPage = 10

// resolveImages finds a Provisioner's images, the newest first.
func (c *Cloud) resolveImages(ctx context.Context, e *v1alpha1.EC2) ([]Image, Finding, error) {
	const condition = v1alpha1.ConditionAMIsReady
	plan, wrong := planImages(family(e), e.AMIs, c.KubernetesVersion())
	if wrong != "" {
		return nil, Finding{Condition: condition, Reason: ReasonInvalid, Message: wrong}, nil
	}
	named, missed, err := c.namedImages(ctx, plan.params)
	if err == nil {
		var more []Image
		var alsoMissed []string
		more, alsoMissed, err = each(ctx, &c.images, plan.queries, c.describeImages)
		named, missed = append(named, more...), append(missed, alsoMissed...)
	}
	if err != nil {
		found, err := denied(condition, err)
		return nil, found, err
	}
	if len(named) == 0 {
		return nil, Finding{Condition: condition, Reason: ReasonNotFound,
			Message: fmt.Sprintf("no usable image with %s in region %s: check ec2.amis and the cluster's version %s",
				strings.Join(missed, ", nor with "), c.cfg.Region, c.KubernetesVersion())}, nil
	}
	sortImages(named)
	var said []string
	for _, i := range named {
		said = append(said, i.describe())
	}
	return named, resolved(condition, strings.Join(said, ", ")+misses(missed)), nil
}

// describe an image in a few words: "ami-1 (arm64, nvidia, deprecated since 2026-05-12)".
func (i Image) describe() string {
	what := i.Arch
	for _, a := range i.Accelerators {
		if a != "" && !slices.Contains(i.Accelerators, "") {
			what += ", " + a
			break
		}
	}
	if i.Deprecated != "" {
		what += ", deprecated since " + i.Deprecated
	}
	return i.ID + " (" + what + ")"
}

// sortImages puts the newest first; of equally old ones the lower id.
func sortImages(images []Image) {
	slices.SortFunc(images, func(a, b Image) int {
		if a.Created != b.Created {
			return strings.Compare(b.Created, a.Created)
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// namedImages follows SSM parameters to images. missed are, in words, the
// parameters that must exist and do not, and the images that they name in vain.
func (c *Cloud) namedImages(ctx context.Context, params []imageParam) (out []Image, missed []string, err error) {
	if len(params) == 0 {
		return nil, nil, nil
	}
	names := make([]string, len(params))
	for i, p := range params {
		names[i] = p.name
	}
	ids, err := c.params.get(ctx, paramsKey(params), func(ctx context.Context) (map[string]string, time.Duration, error) {
		got, err := c.parameters(ctx, names)
		return got, resolveTTL, err
	})
	if err != nil || len(ids) == 0 {
		for _, p := range params {
			if !p.optional {
				missed = append(missed, "SSM parameter "+p.name)
			}
		}
		return nil, missed, err
	}
	var all []string
	for _, id := range ids {
		all = append(all, id)
	}
	slices.Sort(all)
	found, _, err := each(ctx, &c.images, []query{idQuery(slices.Compact(all))}, c.describeImages)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]Image{}
	for _, i := range found {
		byID[i.ID] = i
	}
	for _, p := range params {
		id, there := ids[p.name]
		i, usable := byID[id]
		switch {
		case !there && p.optional:
		case !there:
			missed = append(missed, "SSM parameter "+p.name)
		case !usable:
			missed = append(missed, "SSM parameter "+p.name+" = "+id+", which is no image that this account may use")
		case p.arch != "" && p.arch != i.Arch:
			missed = append(missed, "SSM parameter "+p.name+" = "+id+", which is of "+i.Arch)
		default:
			i.Accelerators = p.accelerators
			out = append(out, i)
		}
	}
	return out, missed, nil
}

// parameters reads SSM parameters; absent ones are absent from the answer.
func (c *Cloud) parameters(ctx context.Context, names []string) (map[string]string, error) {
	out := map[string]string{}
	for part := range slices.Chunk(names, paramsPage) {
		got, err := c.ssm.GetParameters(ctx, &ssm.GetParametersInput{Names: part})
		if err != nil {
			return nil, translate("GetParameters", err)
		}
		for _, p := range got.Parameters {
			// "name:version" and "name:label" come back in two parts.
			out[aws.ToString(p.Name)+aws.ToString(p.Selector)] = strings.TrimSpace(aws.ToString(p.Value))
		}
	}
	return out, nil
}

func (c *Cloud) describeImages(ctx context.Context, q query) ([]Image, error) {
	var out []Image
	p := ec2.NewDescribeImagesPaginator(c.ec2, &ec2.DescribeImagesInput{
		Owners: q.owners, Filters: append(slices.Clip(q.filters), filter("state", "available")),
		// An image that was named by id is meant, and can be launched for as long as
		// it is not disabled. Searches by name and tags find none of the old ones.
		IncludeDeprecated: aws.Bool(len(q.owners) == 0)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeImages", err)
		}
		for _, i := range page.Images {
			if image, ok := imageOf(i); ok {
				out = append(out, image)
			}
		}
	}
	return out, nil
}

// imageOf translates what EC2 lists; false for images that nodes cannot run.
func imageOf(i types.Image) (Image, bool) {
	out := Image{ID: aws.ToString(i.ImageId), Name: aws.ToString(i.Name), RootDevice: aws.ToString(i.RootDeviceName),
		Created: aws.ToString(i.CreationDate), VolumeGiB: map[string]int32{}}
	if at, err := time.Parse(time.RFC3339, aws.ToString(i.DeprecationTime)); err == nil && at.Before(time.Now()) {
		out.Deprecated = at.UTC().Format(time.DateOnly)
	}
	switch i.Architecture {
	case types.ArchitectureValuesX8664:
		out.Arch = "amd64"
	case types.ArchitectureValuesArm64:
		out.Arch = "arm64"
	default:
		return Image{}, false
	}
	for _, d := range i.BlockDeviceMappings {
		if d.Ebs != nil {
			out.VolumeGiB[aws.ToString(d.DeviceName)] = aws.ToInt32(d.Ebs.VolumeSize)
		}
	}
	return out, true
}

// ownTemplate is a launch template of the user's as it stands.
type ownTemplate struct {
	template Template
	imageID  string
	root     map[string]int64 // volume sizes in bytes by device
}

// resolveOwn looks at the launch template that a Provisioner names, and fills
// in what follows from it.
func (c *Cloud) resolveOwn(ctx context.Context, e *v1alpha1.EC2, r *Resolved) (Finding, error) {
	const condition = v1alpha1.ConditionAMIsReady
	ref := e.LaunchTemplate
	says := "launch template " + ref.ID + ref.Name + " version " + ref.Version
	missing := func(message string) Finding {
		return Finding{Condition: condition, Reason: ReasonNotFound, Message: message}
	}
	own, err := c.ownTemplates.get(ctx, ref.ID+"\n"+ref.Name+"\n"+ref.Version, func(ctx context.Context) (ownTemplate, time.Duration, error) {
		own, err := c.describeOwn(ctx, ref)
		return own, resolveTTL, err
	})
	if err != nil {
		if strings.HasPrefix(codeOf(err), "InvalidLaunchTemplate") {
			return missing("there is no " + says + ": check ec2.launchTemplate"), nil
		}
		return denied(condition, err)
	}
	if own.imageID == "" {
		return missing(says + " names no image: a template for ec2.launchTemplate must"), nil
	}
	images, missed, err := each(ctx, &c.images, []query{idQuery([]string{own.imageID})}, c.describeImages)
	if err != nil {
		return denied(condition, err)
	}
	if len(missed) > 0 {
		return missing(says + ": no usable image with " + missed[0]), nil
	}
	r.Own, r.Images = &own.template, images
	r.RootVolumeBytes = int64(images[0].VolumeGiB[images[0].RootDevice]) * gibibyte
	if size := own.root[images[0].RootDevice]; size > 0 {
		r.RootVolumeBytes = size
	}
	r.Volumes = len(own.root)
	for d := range images[0].VolumeGiB {
		if _, there := own.root[d]; !there {
			r.Volumes++
		}
	}
	return resolved(condition, images[0].describe()+" from "+says), nil
}

func (c *Cloud) describeOwn(ctx context.Context, ref *v1alpha1.LaunchTemplateRef) (ownTemplate, error) {
	in := &ec2.DescribeLaunchTemplateVersionsInput{Versions: []string{ref.Version}, ResolveAlias: aws.Bool(true)}
	if ref.ID != "" {
		in.LaunchTemplateId = aws.String(ref.ID)
	} else {
		in.LaunchTemplateName = aws.String(ref.Name)
	}
	got, err := c.ec2.DescribeLaunchTemplateVersions(ctx, in)
	if err != nil {
		return ownTemplate{}, translate("DescribeLaunchTemplateVersions", err)
	}
	if len(got.LaunchTemplateVersions) == 0 {
		return ownTemplate{}, &ConfigError{Fault: Fault{Action: "DescribeLaunchTemplateVersions", Code: "InvalidLaunchTemplateId.VersionNotFound"}}
	}
	v := got.LaunchTemplateVersions[0]
	own := ownTemplate{template: Template{ID: aws.ToString(v.LaunchTemplateId), Version: ref.Version}, root: map[string]int64{}}
	if d := v.LaunchTemplateData; d != nil {
		own.imageID = aws.ToString(d.ImageId)
		for _, b := range d.BlockDeviceMappings {
			if b.Ebs != nil {
				own.root[aws.ToString(b.DeviceName)] = int64(aws.ToInt32(b.Ebs.VolumeSize)) * gibibyte
			}
		}
	}
	return own, nil
}
