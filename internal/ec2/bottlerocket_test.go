package ec2

import (
	"reflect"
	"testing"

	"github.com/BurntSushi/toml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// FuzzBottlerocketUserData: whatever the user writes, it is refused, or the
// document is TOML with Berth's settings in it and all of the user's others.
func FuzzBottlerocketUserData(f *testing.F) {
	for _, s := range []string{"", "[settings.kubernetes]\nmax-pods = 3", "settings = 3", "[settings.kubernetes.node-labels]\na = 'b'", "a = 1979-05-27T07:32:00Z",
		"a = [1, 'x', [2.5]]", "[[a.b]]\nc = 1", "'a b' = inf", "x = 07:32:00", "d = 1979-05-27", "[settings.motd]\n\"a.b\" = \"\"\"\nx\"\"\""} {
		f.Add(s)
	}
	cloud := &Cloud{cfg: testConfig()}
	f.Fuzz(func(t *testing.T, user string) {
		tmpl := richTemplate()
		tmpl.Kubelet.PodsPerCore = nil
		tmpl.EC2.UserData = user
		doc, err := userData(v1alpha1.AMIFamilyBottlerocket, cloud.bootstrap("default", tmpl))
		if err != nil {
			return
		}
		var theirs, merged map[string]any
		if err := toml.Unmarshal([]byte(user), &theirs); err != nil {
			t.Fatalf("accepted what is no TOML: %v", err)
		}
		if err := toml.Unmarshal([]byte(doc), &merged); err != nil {
			t.Fatalf("wrote what is no TOML: %v\n%s", err, doc)
		}
		k := merged["settings"].(map[string]any)["kubernetes"].(map[string]any)
		if k["cluster-name"] != "demo" || k["max-pods"] != int64(42) {
			t.Errorf("Berth's settings are not there: %v", k)
		}
		for key, v := range theirs {
			if key != "settings" && !equalTOML(v, merged[key]) {
				t.Errorf("%s changed from %v to %v", key, v, merged[key])
			}
		}
	})
}

// equalTOML is DeepEqual but for not-a-number, which equals nothing.
func equalTOML(a, b any) bool {
	x, ok1 := a.(float64)
	y, ok2 := b.(float64)
	return ok1 && ok2 && x != x && y != y || reflect.DeepEqual(a, b)
}
