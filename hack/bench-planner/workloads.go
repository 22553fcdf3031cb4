package main

import (
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// size is what one pod requests.
type size struct {
	milliCPU, memoryMiB int64
	app                 int
}

// workload makes the sizes of n pods. The same seed makes the same pods.
type workload struct {
	name  string
	sizes func(r *rand.Rand, n int) []size
}

// workloads are the mixes that the planner is measured with: openb from real
// pods (of a public cluster trace, GPU requests dropped), the others made up.
func workloads(data string) []workload {
	list := []workload{
		{"generic", generic},
		{"deploy20", func(r *rand.Rand, n int) []size { return deployments(r, n, 20) }},
		{"deploy40", func(r *rand.Rand, n int) []size { return deployments(r, n, 40) }},
		{"bigbatch", func(_ *rand.Rand, n int) []size { return repeat(n, size{8000, 32 << 10, 0}) }},
		{"skew", skewed},
		{"mixed", mixed},
		{"vpa", distinct},
	}
	if all, err := openb(data); err == nil {
		list = append([]workload{{"openb", func(r *rand.Rand, n int) []size { return sample(r, n, all) }}}, list...)
	} else {
		fmt.Fprintln(os.Stderr, "openb is left out:", err)
	}
	return list
}

// generic are sizes of small services, 30 of them.
func generic(r *rand.Rand, n int) []size {
	cpus := []int64{100, 250, 500, 1000, 1500}
	memories := []int64{100, 256, 512, 1024, 2048, 4096}
	s := make([]size, n)
	for i := range s {
		c, m := r.IntN(len(cpus)), r.IntN(len(memories))
		s[i] = size{cpus[c], memories[m], c*len(memories) + m}
	}
	return s
}

// deployments have log-normal sizes and 10 to 500 replicas, scaled to n pods.
func deployments(r *rand.Rand, n, kinds int) []size {
	sizes, weights, total := make([]size, kinds), make([]float64, kinds), 0.0
	for i := range sizes {
		cpu := clamp(500*math.Exp(0.9*r.NormFloat64()), 50, 16000)
		perCPU := clamp(3*math.Exp(0.7*r.NormFloat64()), 0.5, 16)
		sizes[i] = size{round(cpu, 50), round(cpu*perCPU*1.024, 64), i}
		weights[i] = math.Exp(math.Log(10) + r.Float64()*math.Log(50))
		total += weights[i]
	}
	return byWeight(n, sizes, weights, total)
}

func byWeight(n int, sizes []size, weights []float64, total float64) []size {
	s := make([]size, 0, n)
	sum := 0.0
	for i, w := range weights {
		sum += w
		for len(s) < int(math.Round(sum/total*float64(n))) {
			s = append(s, sizes[i])
		}
	}
	return s
}

// skewed pods are half heavy on memory, half on CPU.
func skewed(r *rand.Rand, n int) []size {
	sizes, weights := make([]size, 24), make([]float64, 24)
	for i := range sizes {
		cpu := []int64{250, 500, 1000, 2000, 4000}[r.IntN(5)]
		perCPU := 8 + 8*r.Float64()
		if i%2 == 1 {
			perCPU = 0.25 + 0.75*r.Float64()
		}
		sizes[i] = size{cpu, round(float64(cpu)*perCPU*1.024, 64), i}
		weights[i] = 1
	}
	return byWeight(n, sizes, weights, float64(len(sizes)))
}

// mixed are small services, some larger ones and a few big jobs.
func mixed(r *rand.Rand, n int) []size {
	s := generic(r, n)
	for i := range s {
		switch x := r.Float64(); {
		case x < 0.05:
			k := r.IntN(16)
			s[i] = size{int64(8000 + 2000*(k%8)), int64(16<<10 + 8<<10*(k/4)), 100 + k}
		case x < 0.30:
			k := r.IntN(12)
			s[i] = size{int64(2000 + 500*(k%4)), int64(4<<10 + 2<<10*(k/4)), 50 + k}
		}
	}
	return s
}

// distinct pods are sized by measurement: no two alike.
func distinct(r *rand.Rand, n int) []size {
	s := make([]size, n)
	for i := range s {
		cpu := clamp(400*math.Exp(r.NormFloat64()), 10, 15000)
		s[i] = size{int64(cpu), int64(clamp(cpu*2.5*math.Exp(0.8*r.NormFloat64()), 16, 120000)), i}
	}
	return s
}

// openb reads the requests of the real pods of the trace in the data folder.
func openb(data string) ([]size, error) {
	f, err := os.Open(filepath.Join(data, "openb_pod_list_default.csv"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	apps := map[size]int{}
	var all []size
	for _, row := range rows[1:] {
		cpu, err1 := strconv.ParseInt(row[1], 10, 64)
		mem, err2 := strconv.ParseInt(row[2], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%s: %v is not a pod", f.Name(), row)
		}
		s := size{cpu, mem, 0}
		if _, ok := apps[s]; !ok {
			apps[s] = len(apps)
		}
		s.app = apps[s]
		all = append(all, s)
	}
	return all, nil
}

func sample(r *rand.Rand, n int, from []size) []size {
	s := make([]size, n)
	for i := range s {
		s[i] = from[r.IntN(len(from))]
	}
	return s
}

func repeat(n int, x size) []size {
	s := make([]size, n)
	for i := range s {
		s[i] = x
	}
	return s
}

func clamp(x, least, most float64) float64 { return math.Min(most, math.Max(least, x)) }

func round(x float64, to int64) int64 { return max(to, int64(math.Round(x/float64(to)))*to) }

// pods makes pods of these sizes; pods of one app have one label.
func pods(sizes []size) []*corev1.Pod {
	list := make([]*corev1.Pod, len(sizes))
	for i, s := range sizes {
		list[i] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p-%05d", i), Labels: map[string]string{"app": strconv.Itoa(s.app)}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewMilliQuantity(s.milliCPU, resource.DecimalSI),
				corev1.ResourceMemory: *resource.NewQuantity(s.memoryMiB<<20, resource.BinarySI),
			}}}}},
		}
	}
	return list
}
