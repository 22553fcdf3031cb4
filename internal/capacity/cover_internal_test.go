package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
)

// coverCase is a packer with a few kinds and items, and the demand of all pods.
func coverCase(r *rand.Rand) (p *packer, demand []float64, have []int) {
	p = &packer{width: 2, conflict: make([]bitset, 3)}
	demand = make([]float64, 2)
	for range 3 {
		it := &packItem{it: &item{n: 1 + r.IntN(3)}, req: []int64{1 + r.Int64N(9), 1 + r.Int64N(9)}, most: 100}
		it.seal()
		p.items = append(p.items, it)
		have = append(have, it.it.n)
		for d, x := range it.req {
			demand[d] += float64(x) * float64(it.it.n)
		}
	}
	for range 4 {
		k := &kind{free: []int64{9 + r.Int64N(20), 9 + r.Int64N(20)}, allows: newBitset(3)}
		k.price = float64(k.free[0]+k.free[1]) * (0.8 + 0.4*r.Float64())
		for j, it := range p.items {
			k.allow(j, it)
		}
		p.kinds = append(p.kinds, k)
	}
	p.byPrice()
	return p, demand, have
}

// cheapestEnough is the least price of nodes with enough of both resources for all
// pods, by trying all, and the least at which the pods fit one by one, too.
func cheapestEnough(p *packer, demand []float64) (enough, packed float64) {
	var pods []int
	for j, it := range p.items {
		for range it.it.n {
			pods = append(pods, j)
		}
	}
	enough, packed = math.Inf(1), math.Inf(1)
	var nodes []*kind
	var choose func(from int, price, cpu, memory float64)
	choose = func(from int, price, cpu, memory float64) {
		if cpu >= demand[0] && memory >= demand[1] {
			enough = min(enough, price)
		}
		free := make([][2]int64, len(nodes))
		for i, k := range nodes {
			free[i] = [2]int64{k.free[0], k.free[1]}
		}
		if price < packed && fitOneByOne(p, pods, free) {
			packed = price
		}
		for t := from; t < len(p.kinds); t++ {
			if k := p.kinds[t]; price+k.price < packed {
				nodes = append(nodes, k)
				choose(t, price+k.price, cpu+float64(k.free[0]), memory+float64(k.free[1]))
				nodes = nodes[:len(nodes)-1]
			}
		}
	}
	choose(0, 0, 0, 0)
	return enough, packed
}

func fitOneByOne(p *packer, pods []int, free [][2]int64) bool {
	if len(pods) == 0 {
		return true
	}
	req := p.items[pods[0]].req
	for i, f := range free {
		if f[0] < req[0] || f[1] < req[1] {
			continue
		}
		free[i] = [2]int64{f[0] - req[0], f[1] - req[1]}
		if fitOneByOne(p, pods[1:], free) {
			return true
		}
		free[i] = f
	}
	return false
}

func TestCoverIsTheLeastThatNodesCost(t *testing.T) {
	higher, found := 0, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, demand, have := coverCase(r)
		enough, packed := cheapestEnough(p, demand)
		pi := make([]float64, len(have))
		value := 0.0
		if seed%2 == 1 {
			for j := range pi {
				pi[j] = r.Float64()
				value += pi[j] * float64(have[j])
			}
		}
		x := p.newCover(demand, value, pi, have, 1e9).next(inf)
		if x == nil || x.price < enough-1e-9 || x.price > packed+1e-9 {
			t.Errorf("seed %d: %+v; enough costs %v, a plan %v", seed, x, enough, packed)
			continue
		}
		if x.price > enough+1e-9 {
			higher++ // by divisors or worths
		}
		// Cut short, or with nothing below the most, it is still a bound.
		for _, limit := range []int64{1, 30, 300} {
			c := p.newCover(demand, value, pi, have, math.MaxInt64)
			c.limit = limit
			if y := c.next(packed); y == nil && c.bound(packed) > packed+1e-9 || y != nil && y.price > packed+1e-9 {
				t.Errorf("seed %d: a bound of %v after %d, a plan costs %v", seed, c.bound(packed), limit, packed)
			}
		}
		// few starts from a node for each pod.
		var start []pattern
		for j, n := range have {
			start = append(start, pattern{p.kinds[len(p.kinds)-1], []share{{j, 1}}, n})
		}
		ps, done := p.few(start, pi, math.MaxInt64)
		if got := cost(ps); got < packed-1e-9 || done && got > packed+1e-9 {
			t.Errorf("seed %d: few has %v, done: %v, the best plan is %v", seed, got, done, packed)
		} else if got < packed+1e-9 {
			found++
		}
	}
	t.Logf("%d of 300 are above what resources say; few has found the best plan %d times", higher, found)
	if higher == 0 || found < 250 {
		t.Error("too few")
	}
}
