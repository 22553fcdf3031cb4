package deploy

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// values of the placeholders in iam/policy.json, for tests.
var placeholders = map[string]string{
	"__PARTITION__": "aws", "__REGION__": "eu-west-1", "__ACCOUNT__": "111122223333",
	"__CLUSTER_NAME__": "prod", "__CLUSTER_UID__": "uid-1", "__NODE_ROLE__": "berth-node-prod",
}

// words is a string or a list of strings.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*w = words{s}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

type statement struct {
	Sid, Effect      string
	Action, Resource words
	Condition        map[string]map[string]words
}

// policy reads iam/policy.json as it is after the placeholders are filled in.
func policy(t *testing.T) []statement {
	t.Helper()
	raw, err := os.ReadFile("iam/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	filled := string(raw)
	for k, v := range placeholders {
		if !strings.Contains(filled, k) {
			t.Errorf("placeholder %s is nowhere", k)
		}
		filled = strings.ReplaceAll(filled, k, v)
	}
	if left := regexp.MustCompile(`__\w+?__`).FindString(filled); left != "" {
		t.Errorf("placeholder %s is not known", left)
	}
	var doc struct {
		Version   string
		Statement []statement
	}
	d := json.NewDecoder(strings.NewReader(filled))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("iam/policy.json: %v", err)
	}
	// Limit of a managed policy, white space not counted.
	if n := len(strings.Join(strings.Fields(filled), "")); doc.Version != "2012-10-17" || n > 6144 {
		t.Errorf("version %s, %d characters of at most 6144", doc.Version, n)
	}
	return doc.Statement
}

// implied are the actions that AWS checks although no code calls them.
var implied = map[string]string{
	"iam:PassRole": "instances get the nodes' role",
}

// judged are calls that IAM judges as another action.
var judged = map[string]string{"sqs:DeleteMessageBatch": "sqs:DeleteMessage"}

// TestPolicyAllowsTheActionsThatAreCalledAndNoOther finds the calls in the
// source: the SDK has one …Input type for each action.
func TestPolicyAllowsTheActionsThatAreCalledAndNoOther(t *testing.T) {
	called := map[string]bool{}
	for a := range implied {
		called[a] = true
	}
	for _, f := range sources(t, "../internal/ec2") {
		imports := importsOf(f)
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || !strings.HasSuffix(sel.Sel.Name, "Input") {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && strings.HasPrefix(imports[pkg.Name], "github.com/aws/aws-sdk-go-v2/service/") {
				action := path.Base(imports[pkg.Name]) + ":" + strings.TrimSuffix(sel.Sel.Name, "Input")
				if as, ok := judged[action]; ok {
					action = as
				}
				called[action] = true
			}
			return true
		})
	}
	allowed := map[string]bool{}
	for _, s := range policy(t) {
		for _, a := range s.Action {
			allowed[a] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(called)), slices.Sorted(maps.Keys(allowed))); diff != "" {
		t.Errorf("actions (-called by internal/ec2 +allowed by the policy):\n%s", diff)
	}
}

// request is one authorization that AWS makes: a call is several, one for each
// resource that it touches.
type request struct {
	action, resource string
	// context holds the condition keys that the request has.
	context map[string]string
}

// allows decides like IAM, as far as the policy goes: statements that allow,
// and the condition operators below.
func allows(statements []statement, r request) (bool, error) {
	for _, s := range statements {
		if s.Effect != "Allow" {
			return false, fmt.Errorf("statement %s: effect %s is not handled here", s.Sid, s.Effect)
		}
		if !slices.Contains(s.Action, r.action) || !slices.ContainsFunc(s.Resource, func(p string) bool { return like(p, r.resource) }) {
			continue
		}
		holds := true
		for operator, keys := range s.Condition {
			for key, values := range keys {
				got, has := r.context[key]
				switch operator {
				case "StringEquals":
					holds = holds && has && slices.Contains(values, got)
				case "StringLike":
					holds = holds && has && slices.ContainsFunc(values, func(p string) bool { return like(p, got) })
				case "ForAllValues:StringEquals": // Several values are separated by commas here.
					for _, v := range strings.FieldsFunc(got, func(r rune) bool { return r == ',' }) {
						holds = holds && slices.Contains(values, v)
					}
				case "Null":
					holds = holds && slices.Equal(values, words{fmt.Sprint(!has)})
				default:
					return false, fmt.Errorf("statement %s: operator %s is not handled here", s.Sid, operator)
				}
			}
		}
		if holds {
			return true, nil
		}
	}
	return false, nil
}

func like(pattern, s string) bool {
	p := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`)
	return regexp.MustCompile(`^` + p + `$`).MatchString(s)
}

func TestPolicyAllowsWhatBerthDoesAndNothingToOthers(t *testing.T) {
	const arn = "arn:aws:ec2:eu-west-1:111122223333:"
	cluster := v1alpha1.TagClusterPrefix + "prod"
	tags := func(kind, state, uid string) map[string]string {
		return map[string]string{kind + cluster: state, kind + v1alpha1.TagClusterUID: uid}
	}
	requested, stored := "aws:RequestTag/", "aws:ResourceTag/"
	with := func(m map[string]string, k, v string) map[string]string { m = maps.Clone(m); m[k] = v; return m }
	ours, theirs := tags(requested, "owned", "uid-1"), tags(requested, "owned", "uid-2")
	for name, tc := range map[string]struct {
		request
		want bool
	}{
		"reading in its region":                    {request{"ec2:DescribeInstances", "*", map[string]string{"aws:RequestedRegion": "eu-west-1"}}, true},
		"reading in another region":                {request{"ec2:DescribeInstances", "*", map[string]string{"aws:RequestedRegion": "us-east-1"}}, false},
		"prices, which are kept in one region":     {request{"pricing:GetProducts", "*", map[string]string{"aws:RequestedRegion": "us-east-1"}}, true},
		"a public image parameter":                 {request{"ssm:GetParameters", "arn:aws:ssm:eu-west-1::parameter/aws/service/eks/x", nil}, true},
		"a parameter of the account":               {request{"ssm:GetParameters", "arn:aws:ssm:eu-west-1:111122223333:parameter/password", nil}, false},
		"the cluster's queue of events":            {request{"sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:111122223333:prod", nil}, true},
		"another cluster's":                        {request{"sqs:ReceiveMessage", "arn:aws:sqs:eu-west-1:111122223333:prod2", nil}, false},
		"launching an instance with our tags":      {request{"ec2:RunInstances", arn + "instance/*", ours}, true},
		"its volume":                               {request{"ec2:RunInstances", arn + "volume/*", ours}, true},
		"its network interface":                    {request{"ec2:RunInstances", arn + "network-interface/*", ours}, true},
		"an interface that a template leaves so":   {request{"ec2:RunInstances", arn + "network-interface/*", nil}, true},
		"tagging an interface":                     {request{"ec2:CreateTags", arn + "network-interface/*", with(ours, "ec2:CreateAction", "CreateFleet")}, true},
		"launching without tags":                   {request{"ec2:RunInstances", arn + "instance/*", nil}, false},
		"launching for another cluster":            {request{"ec2:RunInstances", arn + "instance/*", theirs}, false},
		"asking for a fleet":                       {request{"ec2:CreateFleet", arn + "fleet/*", nil}, true},
		"asking for spot capacity":                 {request{"ec2:RunInstances", arn + "spot-instances-request/*", nil}, true},
		"into a subnet of the cluster":             {request{"ec2:RunInstances", arn + "subnet/subnet-1", map[string]string{stored + cluster: "shared"}}, true},
		"into a subnet of nobody":                  {request{"ec2:RunInstances", arn + "subnet/subnet-1", nil}, false},
		"with a security group of the cluster":     {request{"ec2:RunInstances", arn + "security-group/sg-1", map[string]string{stored + cluster: "owned"}}, true},
		"with a security group of another":         {request{"ec2:RunInstances", arn + "security-group/sg-1", map[string]string{stored + v1alpha1.TagClusterPrefix + "other": "owned"}}, false},
		"from a template of the cluster":           {request{"ec2:CreateFleet", arn + "launch-template/lt-1", tags(stored, "owned", "uid-1")}, true},
		"from a template of another":               {request{"ec2:RunInstances", arn + "launch-template/lt-1", nil}, false},
		"from an image":                            {request{"ec2:RunInstances", "arn:aws:ec2:eu-west-1::image/ami-1", nil}, true},
		"making a template with our tags":          {request{"ec2:CreateLaunchTemplate", arn + "launch-template/*", ours}, true},
		"making a template without":                {request{"ec2:CreateLaunchTemplate", arn + "launch-template/*", nil}, false},
		"tagging what is being launched":           {request{"ec2:CreateTags", arn + "instance/*", with(ours, "ec2:CreateAction", "CreateFleet")}, true},
		"tagging a template that is being made":    {request{"ec2:CreateTags", arn + "launch-template/*", with(ours, "ec2:CreateAction", "CreateLaunchTemplate")}, true},
		"tagging what exists, to make it our own":  {request{"ec2:CreateTags", arn + "instance/i-1", ours}, false},
		"naming our instance after its claim":      {request{"ec2:CreateTags", arn + "instance/i-1", with(tags(stored, "owned", "uid-1"), "aws:TagKeys", "Name,berth.dev/nodeclaim,berth.dev/nodeclaim-uid")}, true},
		"naming one of another cluster":            {request{"ec2:CreateTags", arn + "instance/i-1", with(tags(stored, "owned", "uid-2"), "aws:TagKeys", "Name")}, false},
		"changing whose instance it is":            {request{"ec2:CreateTags", arn + "instance/i-1", with(tags(stored, "owned", "uid-1"), "aws:TagKeys", "Name,berth.dev/cluster-uid")}, false},
		"terminating our instance":                 {request{"ec2:TerminateInstances", arn + "instance/i-1", tags(stored, "owned", "uid-1")}, true},
		"terminating one of a cluster of our name": {request{"ec2:TerminateInstances", arn + "instance/i-1", tags(stored, "owned", "uid-2")}, false},
		"terminating a node of a managed group":    {request{"ec2:TerminateInstances", arn + "instance/i-1", map[string]string{stored + cluster: "owned"}}, false},
		"deleting our template":                    {request{"ec2:DeleteLaunchTemplate", arn + "launch-template/lt-1", tags(stored, "owned", "uid-1")}, true},
		"deleting a template that is shared":       {request{"ec2:DeleteLaunchTemplate", arn + "launch-template/lt-1", tags(stored, "shared", "uid-1")}, false},
		"giving instances the nodes' role":         {request{"iam:PassRole", "arn:aws:iam::111122223333:role/berth-node-prod", map[string]string{"iam:PassedToService": "ec2.amazonaws.com"}}, true},
		"giving instances an administrator's role": {request{"iam:PassRole", "arn:aws:iam::111122223333:role/admin", map[string]string{"iam:PassedToService": "ec2.amazonaws.com"}}, false},
		"giving the nodes' role to a function":     {request{"iam:PassRole", "arn:aws:iam::111122223333:role/berth-node-prod", map[string]string{"iam:PassedToService": "lambda.amazonaws.com"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := allows(policy(t), tc.request)
			if err != nil || got != tc.want {
				t.Errorf("allowed %t, want %t (%v)", got, tc.want, err)
			}
		})
	}
}

// TestEveryStatementIsExplained holds docs/iam.md to the policy.
func TestEveryStatementIsExplained(t *testing.T) {
	page, err := os.ReadFile("../docs/iam.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range policy(t) {
		if !strings.Contains(string(page), "`"+s.Sid+"`") {
			t.Errorf("docs/iam.md does not explain statement %s", s.Sid)
		}
	}
}
