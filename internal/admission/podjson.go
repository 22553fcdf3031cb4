package admission

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// PodInput is what a review says of a pod: the part that scheduling depends on,
// and what a patch must know of its metadata. ParsePod makes it.
type PodInput struct {
	pod corev1.Pod
	// annotated: metadata.annotations is there and not null.
	annotated bool
	// full: its annotations leave no room for ours.
	full bool
	// hasMetadata: metadata is there and an object.
	hasMetadata bool
	// ours are the values of our own annotation keys that it has.
	ours map[string]string
	// mirror: it stands for a static pod.
	mirror bool
	// owner is the kind of its controller; empty for a bare pod. ownerUID is its UID.
	owner, ownerUID string
	// held is the annotation, as key=value, that forbids to disrupt it for ever.
	held string
	// spotShare and minOnDemand are the annotations of these names.
	spotShare, minOnDemand string
	// labelled: metadata.labels is there and not null.
	labelled bool
	// hasSpec: spec is there and an object.
	hasSpec bool
}

// ParsePod reads a pod's JSON.
func ParsePod(doc string) (*PodInput, error) {
	in := new(PodInput)
	r := &reader{s: doc}
	decodePod(r, in)
	if err := r.end(); err != nil {
		return nil, err
	}
	return in, nil
}

// decodePod reads the members that capacity.ShapeHash, capacity.Index and the
// patch look at, and skips the others, known or of the future.
func decodePod(r *reader, in *PodInput) {
	r.object(func(key string) {
		switch key {
		case "metadata":
			in.hasMetadata = r.object(func(key string) { podMetadata(r, in, key) })
		case "spec":
			in.hasSpec = r.object(func(key string) { podSpec(r, &in.pod.Spec, key) })
		default:
			r.skip()
		}
	})
}

func podMetadata(r *reader, in *PodInput, key string) {
	switch key {
	case "name":
		in.pod.Name = r.text()
	case "namespace":
		in.pod.Namespace = r.text()
	case "labels":
		in.pod.Labels, in.labelled = nil, false
		in.labelled = r.object(func(key string) {
			if in.pod.Labels == nil {
				in.pod.Labels = make(map[string]string, 8)
			}
			in.pod.Labels[key] = r.text()
		})
	case "annotations":
		in.ours, in.held, in.spotShare, in.minOnDemand = nil, "", "", ""
		start := r.i
		in.annotated = r.object(func(key string) {
			switch key {
			case v1alpha1.AnnotationPlacement, v1alpha1.AnnotationShape:
				if in.ours == nil {
					in.ours = make(map[string]string, 2)
				}
				in.ours[key] = r.text()
			case corev1.MirrorPodAnnotationKey:
				in.mirror = true
				r.skip()
			case v1alpha1.AnnotationDoNotDisrupt, v1alpha1.AnnotationKarpenterDoNotDisrupt:
				if r.text() == "true" {
					in.held = key + "=true"
				}
			case v1alpha1.AnnotationSafeToEvict:
				if r.text() == "false" {
					in.held = key + "=false"
				}
			case v1alpha1.AnnotationSpotShare:
				in.spotShare = r.text()
			case v1alpha1.AnnotationMinOnDemand:
				in.minOnDemand = r.text()
			default:
				r.skip()
			}
		})
		in.full = leavesNoRoom(r.s[start:r.i])
	case "ownerReferences":
		r.array(func() {
			kind, uid, controller := "", "", false
			r.object(func(key string) {
				switch key {
				case "kind":
					kind = r.text()
				case "uid":
					uid = r.text()
				case "controller":
					controller = r.boolean()
				default:
					r.skip()
				}
			})
			if controller {
				in.owner, in.ownerUID = kind, uid
			}
		})
	default:
		r.skip()
	}
}

// maxAnnotations is how many bytes the keys and values of annotations may take for
// ours, which are below 1 KiB, to go with them.
const maxAnnotations = apivalidation.TotalAnnotationSizeLimitB - 1<<10

// leavesNoRoom says whether annotations, as JSON, are so large that the pod would be
// refused with ours. Escapes only shrink, so that most are not looked at.
func leavesNoRoom(annotations string) bool {
	if len(annotations) <= maxAnnotations {
		return false
	}
	size, r := 0, &reader{s: annotations}
	r.object(func(key string) { size += len(key) + len(r.text()) })
	return size > maxAnnotations
}

func podSpec(r *reader, s *corev1.PodSpec, key string) {
	switch key {
	case "nodeName":
		s.NodeName = r.text()
	case "schedulerName":
		s.SchedulerName = r.text()
	case "priority":
		if !r.null() {
			p := r.integer()
			s.Priority = &p
		}
	case "nodeSelector":
		s.NodeSelector = r.textMap()
	case "terminationGracePeriodSeconds":
		if !r.null() {
			if g, err := strconv.ParseInt(r.scalar(), 10, 64); err == nil {
				s.TerminationGracePeriodSeconds = &g
			}
		}
	case "affinity":
		if !r.null() {
			s.Affinity = readAffinity(r)
		}
	case "tolerations":
		s.Tolerations = readTolerations(r)
	case "topologySpreadConstraints":
		s.TopologySpreadConstraints = nil
		r.array(func() {
			s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, readSpread(r))
		})
	case "containers":
		s.Containers = readContainers(r)
	case "initContainers":
		s.InitContainers = readContainers(r)
	case "overhead":
		s.Overhead = readResources(r)
	case "resources":
		if !r.null() {
			s.Resources = &corev1.ResourceRequirements{Requests: readRequests(r)}
		}
	case "volumes":
		s.Volumes = readVolumes(r)
	case "resourceClaims":
		s.ResourceClaims = nil
		r.array(func() { s.ResourceClaims = append(s.ResourceClaims, corev1.PodResourceClaim{Name: readName(r)}) })
	case "schedulingGates":
		s.SchedulingGates = nil
		r.array(func() { s.SchedulingGates = append(s.SchedulingGates, corev1.PodSchedulingGate{Name: readName(r)}) })
	default:
		r.skip()
	}
}

func readName(r *reader) string {
	name := ""
	r.object(func(key string) {
		if key == "name" {
			name = r.text()
		} else {
			r.skip()
		}
	})
	return name
}

func readTolerations(r *reader) []corev1.Toleration {
	var out []corev1.Toleration
	r.array(func() {
		var t corev1.Toleration
		r.object(func(key string) {
			switch key {
			case "key":
				t.Key = r.text()
			case "operator":
				t.Operator = corev1.TolerationOperator(r.text())
			case "value":
				t.Value = r.text()
			case "effect":
				t.Effect = corev1.TaintEffect(r.text())
			default:
				r.skip()
			}
		})
		out = append(out, t)
	})
	return out
}

func readContainers(r *reader) []corev1.Container {
	var out []corev1.Container
	r.array(func() {
		out = append(out, corev1.Container{})
		c := &out[len(out)-1]
		r.object(func(key string) {
			switch key {
			case "resources":
				c.Resources.Requests = readRequests(r)
			case "restartPolicy":
				if !r.null() {
					p := corev1.ContainerRestartPolicy(r.text())
					c.RestartPolicy = &p
				}
			case "ports":
				c.Ports = readHostPorts(r)
			default:
				r.skip()
			}
		})
	})
	return out
}

// readHostPorts reads the ports that a container takes of its node.
func readHostPorts(r *reader) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	r.array(func() {
		var p corev1.ContainerPort
		r.object(func(key string) {
			switch key {
			case "hostPort":
				p.HostPort = r.integer()
			case "hostIP":
				p.HostIP = r.text()
			case "protocol":
				p.Protocol = corev1.Protocol(r.text())
			default:
				r.skip()
			}
		})
		if p.HostPort > 0 {
			out = append(out, p)
		}
	})
	return out
}

func readRequests(r *reader) corev1.ResourceList {
	var list corev1.ResourceList
	r.object(func(key string) {
		if key == "requests" {
			list = readResources(r)
		} else {
			r.skip()
		}
	})
	return list
}

func readResources(r *reader) corev1.ResourceList {
	var list corev1.ResourceList
	r.object(func(key string) {
		var s string
		if r.peek() == '"' || r.peek() == 'n' {
			s = r.text()
		} else {
			s = r.scalar() // The API server writes strings; a number means the same.
		}
		if r.err != nil {
			return
		}
		if list == nil {
			list = make(corev1.ResourceList, 4)
		}
		if s == "" {
			list[corev1.ResourceName(key)] = resource.Quantity{}
			return
		}
		q, err := resource.ParseQuantity(s)
		if err != nil {
			r.fail("a quantity is expected")
			return
		}
		list[corev1.ResourceName(key)] = q
	})
	return list
}

// readVolumes reads the volumes that can tie a pod to a node.
func readVolumes(r *reader) []corev1.Volume {
	var out []corev1.Volume
	r.array(func() {
		var v corev1.Volume
		r.object(func(key string) {
			switch key {
			case "persistentVolumeClaim":
				if r.null() {
					return
				}
				v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{}
				r.object(func(key string) {
					if key == "claimName" {
						v.PersistentVolumeClaim.ClaimName = r.text()
					} else {
						r.skip()
					}
				})
			case "ephemeral":
				if !r.null() {
					v.Ephemeral = readEphemeral(r)
				}
			case "csi":
				if r.null() {
					return
				}
				v.CSI = &corev1.CSIVolumeSource{}
				r.object(func(key string) {
					if key == "driver" {
						v.CSI.Driver = r.text()
					} else {
						r.skip()
					}
				})
			default:
				r.skip()
			}
		})
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil || v.CSI != nil {
			out = append(out, v)
		}
	})
	return out
}

func readEphemeral(r *reader) *corev1.EphemeralVolumeSource {
	e := &corev1.EphemeralVolumeSource{}
	spec := func(s *corev1.PersistentVolumeClaimSpec) {
		r.object(func(key string) {
			switch key {
			case "storageClassName":
				if !r.null() {
					name := r.text()
					s.StorageClassName = &name
				}
			case "volumeName":
				s.VolumeName = r.text()
			default:
				r.skip()
			}
		})
	}
	r.object(func(key string) {
		if key != "volumeClaimTemplate" {
			r.skip()
			return
		}
		if r.null() {
			return
		}
		e.VolumeClaimTemplate = &corev1.PersistentVolumeClaimTemplate{}
		r.object(func(key string) {
			if key == "spec" {
				spec(&e.VolumeClaimTemplate.Spec)
			} else {
				r.skip()
			}
		})
	})
	return e
}

func readSpread(r *reader) corev1.TopologySpreadConstraint {
	var c corev1.TopologySpreadConstraint
	r.object(func(key string) {
		switch key {
		case "maxSkew":
			c.MaxSkew = r.integer()
		case "topologyKey":
			c.TopologyKey = r.text()
		case "whenUnsatisfiable":
			c.WhenUnsatisfiable = corev1.UnsatisfiableConstraintAction(r.text())
		case "labelSelector":
			c.LabelSelector = readSelector(r)
		case "matchLabelKeys":
			c.MatchLabelKeys = r.texts()
		case "minDomains":
			if !r.null() {
				n := r.integer()
				c.MinDomains = &n
			}
		case "nodeAffinityPolicy":
			c.NodeAffinityPolicy = readPolicy(r)
		case "nodeTaintsPolicy":
			c.NodeTaintsPolicy = readPolicy(r)
		default:
			r.skip()
		}
	})
	return c
}

func readPolicy(r *reader) *corev1.NodeInclusionPolicy {
	if r.null() {
		return nil
	}
	p := corev1.NodeInclusionPolicy(r.text())
	return &p
}

func readSelector(r *reader) *metav1.LabelSelector {
	if r.null() {
		return nil
	}
	s := &metav1.LabelSelector{}
	r.object(func(key string) {
		switch key {
		case "matchLabels":
			s.MatchLabels = r.textMap()
		case "matchExpressions":
			s.MatchExpressions = nil
			r.array(func() {
				var e metav1.LabelSelectorRequirement
				r.object(func(key string) {
					switch key {
					case "key":
						e.Key = r.text()
					case "operator":
						e.Operator = metav1.LabelSelectorOperator(r.text())
					case "values":
						e.Values = r.texts()
					default:
						r.skip()
					}
				})
				s.MatchExpressions = append(s.MatchExpressions, e)
			})
		default:
			r.skip()
		}
	})
	return s
}
