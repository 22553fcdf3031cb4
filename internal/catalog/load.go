package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxSize bounds a catalogue, packed and unpacked: far above the real 0.7 MB,
// far below what could hurt.
const maxSize = 64 << 20

// Load reads a catalogue, gzip-compressed or plain. It is strict: an unknown
// key, a tuple of another length, a type named twice, a zone or region that
// "meta" does not declare, a negative number and anything after the document
// are errors that name the type and the key.
func Load(r io.Reader) (*Catalog, error) {
	data, err := readAll(r, maxSize)
	if err != nil {
		return nil, fmt.Errorf("reading the catalogue: %w", err)
	}
	if data, err = unpack(data, maxSize); err != nil {
		return nil, fmt.Errorf("unpacking the catalogue: %w", err)
	}
	c, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("parsing the catalogue: %w", err)
	}
	return c, nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}

// meta is the part of the "meta" object that Load reads; about, keys and
// sources are for people.
type meta struct {
	About      string                       `json:"about"`
	Keys       map[string]string            `json:"keys"`
	Regions    map[string]string            `json:"regions"`
	ZoneLetter map[string]map[string]string `json:"zoneLetter"`
	Sources    map[string]string            `json:"sources"`
}

// record is one type as the file has it.
type record struct {
	V    int                  `json:"v"`
	M    int                  `json:"m"`
	A    []string             `json:"a"`
	H    string               `json:"h"`
	BM   int                  `json:"bm"`
	CG   int                  `json:"cg"`
	BU   int                  `json:"bu"`
	TC   int                  `json:"tc"`
	CM   string               `json:"cm"`
	GZ   float64              `json:"gz"`
	UC   string               `json:"uc"`
	ENI  int                  `json:"eni"`
	IP4  int                  `json:"ip4"`
	IP6  int                  `json:"ip6"`
	BR   int                  `json:"br"`
	DC   int                  `json:"dc"`
	NC   []tuple              `json:"nc"`
	NP   string               `json:"np"`
	NB   int                  `json:"nb"`
	EB   []int                `json:"eb"`
	EA   tuple                `json:"ea"`
	LS   []tuple              `json:"ls"`
	NV   int                  `json:"nv"`
	GPU  []tuple              `json:"gpu"`
	NEU  []tuple              `json:"neu"`
	INF  []tuple              `json:"inf"`
	FPGA []tuple              `json:"fpga"`
	EFA  int                  `json:"efa"`
	ET   int                  `json:"et"`
	PG   string               `json:"pg"`
	Z    map[string]string    `json:"z"`
	OD   map[string]float64   `json:"od"`
	Est  []string             `json:"est"`
	SP   map[string][]float64 `json:"sp"`
	IR   map[string][2]int    `json:"ir"`
}

// tuple is a JSON array of mixed scalars.
type tuple []json.RawMessage

// into decodes the elements into the given pointers; the number of elements
// must be between least and the number of pointers.
func (t tuple) into(least int, to ...any) error {
	if len(t) < least || len(t) > len(to) {
		return fmt.Errorf("%d elements, want %d to %d", len(t), least, len(to))
	}
	for i, raw := range t {
		if err := json.Unmarshal(raw, to[i]); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if n, ok := to[i].(*int); ok && *n < 0 {
			return fmt.Errorf("element %d is negative", i)
		}
	}
	return nil
}

func parse(data []byte) (*Catalog, error) {
	var doc struct {
		Meta  meta            `json:"meta"`
		Types json.RawMessage `json:"types"`
	}
	if err := strict(data, &doc); err != nil {
		return nil, err
	}
	c := &Catalog{byName: map[string]int{}, Date: sourceDate(doc.Meta.Sources)}
	prefixes, err := c.setRegions(doc.Meta)
	if err != nil {
		return nil, err
	}
	if doc.Types == nil {
		return nil, errors.New(`"types" is missing`)
	}
	dec := json.NewDecoder(bytes.NewReader(doc.Types))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New(`"types" is not an object`)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		name := key.(string) // an object's key is always a string
		t, err := parseType(name, raw, prefixes)
		if err != nil {
			return nil, fmt.Errorf("type %q: %w", name, err)
		}
		c.Types = append(c.Types, *t)
	}
	slices.SortStableFunc(c.Types, func(a, b Type) int { return strings.Compare(a.Name, b.Name) })
	for i := range c.Types {
		if _, twice := c.byName[c.Types[i].Name]; twice {
			return nil, fmt.Errorf("type %q is there twice", c.Types[i].Name)
		}
		c.byName[c.Types[i].Name] = i
	}
	return c, nil
}

// moduleDate finds the time in a Go pseudo-version: v0.0.0-20250528091325-….
var moduleDate = regexp.MustCompile(`-(\d{14})-[0-9a-f]{12}`)

// sourceDate is the date of the newest source that says one, else zero.
func sourceDate(sources map[string]string) time.Time {
	var newest time.Time
	for _, s := range sources {
		if m := moduleDate.FindStringSubmatch(s); m != nil {
			if t, err := time.Parse("20060102150405", m[1]); err == nil && t.After(newest) {
				newest = t
			}
		}
	}
	return newest
}

// strict decodes one JSON value with no unknown field and nothing after it.
func strict(data []byte, to any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something after the document")
	}
	return nil
}

// setRegions fills c.Regions and returns them by zone prefix.
func (c *Catalog) setRegions(m meta) (map[string]Region, error) {
	byPrefix := map[string]Region{}
	names := map[string]bool{}
	for _, prefix := range slices.Sorted(maps.Keys(m.Regions)) {
		name := m.Regions[prefix]
		if name == "" || prefix == "" {
			return nil, errors.New("meta.regions: an empty name")
		}
		if names[name] {
			return nil, fmt.Errorf("meta.regions: %q is there twice", name)
		}
		names[name] = true
		r := Region{Name: name, ZonePrefix: prefix}
		ids := map[string]bool{}
		for _, letter := range slices.Sorted(maps.Keys(m.ZoneLetter[prefix])) {
			digit := m.ZoneLetter[prefix][letter]
			if len(letter) != 1 || len(digit) != 1 || ids[digit] {
				return nil, fmt.Errorf("meta.zoneLetter.%s: %q: %q is not one letter and one digit used once", prefix, letter, digit)
			}
			ids[digit] = true
			r.Zones = append(r.Zones, Zone{Name: name + letter, ID: prefix + "-az" + digit})
		}
		byPrefix[prefix] = r
		c.Regions = append(c.Regions, r)
	}
	if len(c.Regions) == 0 {
		return nil, errors.New("meta.regions is missing")
	}
	slices.SortFunc(c.Regions, func(a, b Region) int { return strings.Compare(a.Name, b.Name) })
	return byPrefix, nil
}

func parseType(name string, raw json.RawMessage, regions map[string]Region) (*Type, error) {
	if family, size, ok := strings.Cut(name, "."); !ok || family == "" || size == "" {
		return nil, errors.New("the name is not family.size")
	}
	var r record
	if err := strict(raw, &r); err != nil {
		return nil, err
	}
	if r.V <= 0 || r.M <= 0 || r.TC <= 0 || len(r.A) == 0 {
		return nil, errors.New("v, m, tc and a must be there and positive")
	}
	for key, n := range map[string]int{"eni": r.ENI, "ip4": r.IP4, "ip6": r.IP6, "br": r.BR, "dc": r.DC, "nb": r.NB, "efa": r.EFA} {
		if n < 0 {
			return nil, fmt.Errorf("%s is negative", key)
		}
	}
	t := &Type{
		Name: name, VCPUs: r.V, MemoryMiB: r.M, Architectures: r.A, Hypervisor: r.H,
		BareMetal: r.BM == 1, CurrentGeneration: r.CG == 1, Burstable: r.BU == 1,
		ThreadsPerCore: r.TC, CPUMaker: r.CM, ClockGHz: r.GZ,
		MaxENIs: r.ENI, IPv4PerENI: r.IP4, IPv6PerENI: r.IP6, BranchENIs: r.BR,
		DefaultNetworkCard: r.DC, NetworkPerformance: r.NP, NetworkBaselineMbps: r.NB,
		MaxEFAs: r.EFA, EncryptionInTransit: r.ET == 1, LocalNVMe: r.NV == 1,
	}
	var err error
	if t.UsageClasses, err = letters(r.UC, map[rune]string{'o': "on-demand", 's': "spot", 'b': "capacity-block"}); err != nil {
		return nil, fmt.Errorf("uc: %w", err)
	}
	if t.PlacementStrategies, err = letters(r.PG, map[rune]string{'c': "cluster", 'p': "partition", 's': "spread"}); err != nil {
		return nil, fmt.Errorf("pg: %w", err)
	}
	if err := t.setDevices(&r); err != nil {
		return nil, err
	}
	if err := t.setOffers(&r, regions); err != nil {
		return nil, err
	}
	return t, nil
}

func letters(text string, words map[rune]string) ([]string, error) {
	var out []string
	for _, l := range text {
		w, ok := words[l]
		if !ok || slices.Contains(out, w) {
			return nil, fmt.Errorf("letter %q is unknown or there twice", l)
		}
		out = append(out, w)
	}
	return out, nil
}

// maxCards bounds the run-length list of network cards; the largest real
// type has 32.
const maxCards = 256

func (t *Type) setDevices(r *record) error {
	for _, one := range r.NC {
		var n int
		var card NetworkCard
		if err := one.into(4, &n, &card.MaxENIs, &card.BaselineMbps, &card.PeakMbps); err != nil {
			return fmt.Errorf("nc: %w", err)
		}
		if n < 1 || len(t.NetworkCards)+n > maxCards {
			return fmt.Errorf("nc: %d cards", n)
		}
		t.NetworkCards = append(t.NetworkCards, slices.Repeat([]NetworkCard{card}, n)...)
	}
	if len(t.NetworkCards) > 0 && t.DefaultNetworkCard >= len(t.NetworkCards) {
		return fmt.Errorf("dc: there is no network card %d", t.DefaultNetworkCard)
	}
	if r.EB != nil {
		if len(r.EB) != 4 || slices.Min(r.EB) < 0 {
			return errors.New("eb: want four numbers")
		}
		t.EBS = &EBS{BaselineMbps: r.EB[0], MaxMbps: r.EB[1], BaselineIOPS: r.EB[2], MaxIOPS: r.EB[3]}
	}
	if r.EA != nil {
		var kind string
		if err := r.EA.into(2, &t.EBSAttachments.Max, &kind); err != nil {
			return fmt.Errorf("ea: %w", err)
		}
		if kind != "s" && kind != "d" {
			return fmt.Errorf("ea: %q is neither s nor d", kind)
		}
		t.EBSAttachments.Dedicated = kind == "d"
	}
	for _, one := range r.LS {
		var d LocalDisk
		if err := one.into(3, &d.Count, &d.SizeGB, &d.Kind); err != nil {
			return fmt.Errorf("ls: %w", err)
		}
		t.LocalDisks = append(t.LocalDisks, d)
	}
	for _, one := range r.GPU {
		var g GPU
		if err := one.into(4, &g.Count, &g.Maker, &g.Name, &g.MemoryMiB, &g.Fraction); err != nil {
			return fmt.Errorf("gpu: %w", err)
		}
		t.GPUs = append(t.GPUs, g)
	}
	for _, one := range r.NEU {
		var n Neuron
		if err := one.into(4, &n.Count, &n.Name, &n.Cores, &n.MemoryMiB); err != nil {
			return fmt.Errorf("neu: %w", err)
		}
		t.Neuron = append(t.Neuron, n)
	}
	var err error
	if t.Inference, err = parseAccelerators(r.INF); err != nil {
		return fmt.Errorf("inf: %w", err)
	}
	if t.FPGAs, err = parseAccelerators(r.FPGA); err != nil {
		return fmt.Errorf("fpga: %w", err)
	}
	return nil
}

func parseAccelerators(in []tuple) ([]Accelerator, error) {
	var out []Accelerator
	for _, one := range in {
		var a Accelerator
		if err := one.into(3, &a.Count, &a.Maker, &a.Name); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (t *Type) setOffers(r *record, regions map[string]Region) error {
	name := func(key, prefix string) (string, error) {
		region, ok := regions[prefix]
		if !ok {
			return "", fmt.Errorf("%s: meta.regions has no %q", key, prefix)
		}
		return region.Name, nil
	}
	t.zones, t.onDemand, t.estimated = map[string][]Zone{}, map[string]float64{}, map[string]bool{}
	t.spot, t.interruption = map[string][]float64{}, map[string]Interruption{}
	for prefix, digits := range r.Z {
		region, err := name("z", prefix)
		if err != nil {
			return err
		}
		for _, d := range digits {
			id := prefix + "-az" + string(d)
			all := regions[prefix].Zones
			at := slices.IndexFunc(all, func(z Zone) bool { return z.ID == id })
			if at < 0 || slices.Contains(t.zones[region], all[at]) {
				return fmt.Errorf("z: zone %q is unknown or there twice", id)
			}
			t.zones[region] = append(t.zones[region], all[at])
		}
		slices.SortFunc(t.zones[region], func(a, b Zone) int { return strings.Compare(a.Name, b.Name) })
	}
	for prefix, price := range r.OD {
		region, err := name("od", prefix)
		if err != nil {
			return err
		}
		if !validPrice(price) {
			return fmt.Errorf("od: %v is not a price", price)
		}
		t.onDemand[region] = price
	}
	for _, prefix := range r.Est {
		region, err := name("est", prefix)
		if err != nil {
			return err
		}
		t.estimated[region] = true
	}
	for prefix, samples := range r.SP {
		region, err := name("sp", prefix)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(samples, func(p float64) bool { return !validPrice(p) }) {
			return fmt.Errorf("sp: %v are not prices", samples)
		}
		slices.Sort(samples)
		t.spot[region] = samples
	}
	for prefix, ir := range r.IR {
		region, err := name("ir", prefix)
		if err != nil {
			return err
		}
		if ir[0] < 0 || ir[0] > 4 {
			return fmt.Errorf("ir: band %d", ir[0])
		}
		t.interruption[region] = Interruption{Band: ir[0], SavingPercent: ir[1]}
	}
	return nil
}

func validPrice(p float64) bool {
	return p > 0 && !math.IsInf(p, 0)
}
