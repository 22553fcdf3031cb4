package query

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type target struct {
	Name    string
	Count   *int32
	On      bool
	Price   float64
	When    time.Time
	Filters []struct {
		Name   string
		Values []string `q:"Value"`
	} `q:"Filter"`
	Nested *struct{ Deep struct{ ID string } }
}

func TestDecode(t *testing.T) {
	form, err := url.ParseQuery("Name=a&Count=3&On=true&Price=0.5&When=2026-01-02T03:04:05.6Z&Filter.1.Name=x&Filter.1.Value.1=p&Filter.1.Value.2=q&Filter.2.Name=y&Nested.Deep.ID=z")
	if err != nil {
		t.Fatal(err)
	}
	var got target
	if err := Decode(form, &got); err != nil {
		t.Fatal(err)
	}
	three := int32(3)
	want := target{Name: "a", Count: &three, On: true, Price: 0.5, When: time.Date(2026, 1, 2, 3, 4, 5, 6e8, time.UTC)}
	want.Filters = append(want.Filters, struct {
		Name   string
		Values []string `q:"Value"`
	}{"x", []string{"p", "q"}}, struct {
		Name   string
		Values []string `q:"Value"`
	}{Name: "y"})
	want.Nested = &struct{ Deep struct{ ID string } }{}
	want.Nested.Deep.ID = "z"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		form, param string
		unknown     bool
	}{
		"a parameter that is not there":        {"Colour=red", "Colour", true},
		"a nested one that is not there":       {"Nested.Deep.Colour=red", "Nested.Deep.Colour", true},
		"a member of a scalar":                 {"Name.1=a", "Name.1", true},
		"a scalar for a struct":                {"Nested=a", "Nested", false},
		"a scalar for a list":                  {"Filter=a", "Filter", false},
		"a list that starts at zero":           {"Filter.0.Name=a", "Filter.0.Name", true},
		"a list with a gap":                    {"Filter.1.Name=a&Filter.3.Name=b", "Filter.1.Name", true},
		"a number that is none":                {"Count=many", "Count", false},
		"a number that does not fit":           {"Count=3000000000", "Count", false},
		"a truth that is none":                 {"On=1", "On", false},
		"a price that is not a number":         {"Price=NaN", "Price", false},
		"a time that is none":                  {"When=today", "When", false},
		"the same parameter twice":             {"Name=a&Name=b", "Name", false},
		"a name nested beyond all real depths": {strings.Repeat("a.", 40) + "b=1", strings.Repeat("a.", 40) + "b", false},
	} {
		t.Run(name, func(t *testing.T) {
			form, err := url.ParseQuery(tc.form)
			if err != nil {
				t.Fatal(err)
			}
			var e *Error
			if err := Decode(form, new(target)); !errors.As(err, &e) || e.Name != tc.param || e.Unknown != tc.unknown {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	type item struct {
		ID string `xml:"id"`
	}
	type body struct {
		Items []item `xml:"itemSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}
	got, err := Marshal("ListThings", "r-1", &body{Items: []item{{"<a>"}, {"b"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>
<ListThingsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-1</requestId><itemSet><item><id>&lt;a&gt;</id></item><item><id>b</id></item></itemSet></ListThingsResponse>`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	empty, err := Marshal("ListThings", "r-1", &body{})
	if err != nil || !strings.HasSuffix(string(empty), "<requestId>r-1</requestId><itemSet></itemSet></ListThingsResponse>") {
		t.Errorf("%s, %v", empty, err)
	}
}

func TestMarshalError(t *testing.T) {
	got := string(MarshalError("r-1", "InvalidParameterValue", "a < b"))
	want := `<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>InvalidParameterValue</Code><Message>a &lt; b</Message></Error></Errors><RequestID>r-1</RequestID></Response>`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("Name=a&Count=3&On=true&Filter.1.Name=x&Filter.1.Value.1=p")
	f.Add("Filter.2.Name=x&Nested.Deep=1")
	f.Add("Filter.99999999999999999999.Name=x")
	f.Add("....=1&Name.=2&=3")
	f.Fuzz(func(t *testing.T, text string) {
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		var got target
		err = Decode(form, &got)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("an error of another type: %v", err)
		}
		if err == nil && len(form) > 0 {
			leaves := 0
			for _, fl := range got.Filters {
				leaves += len(fl.Values)
			}
			if leaves > len(form) {
				t.Fatalf("%d values from %d parameters", leaves, len(form))
			}
		}
	})
}
