package provisioner

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// movesFor is how long a move counts against its workload's budget.
	movesFor = 24 * time.Hour
	// failedFirst is how long no replacement is bought for a node after one has
	// failed; each time doubles it, up to failedMost.
	failedFirst = 10 * time.Minute
	failedMost  = 24 * time.Hour
	// historyKey is the key in the ConfigMap.
	historyKey = "history.json"
)

// moveHistory is what consolidation remembers beyond a restart: moves by
// workload, and replacements that failed. Safe for concurrent use.
type moveHistory struct {
	mu    sync.Mutex
	data  historyData
	dirty bool
}

type historyData struct {
	// Moves by workload and by hour (since 1970).
	Moves map[string]map[string]int `json:"moves"`
	// Failed by claim.
	Failed map[string]failure `json:"failed"`
}

type failure struct {
	Times int       `json:"times"`
	Until time.Time `json:"until"`
	Why   string    `json:"why"`
}

func newMoveHistory() *moveHistory {
	return &moveHistory{data: historyData{Moves: map[string]map[string]int{}, Failed: map[string]failure{}}}
}

func hourOf(t time.Time) string { return strconv.FormatInt(t.Unix()/3600, 10) }

// add counts moves.
func (h *moveHistory) add(moves map[string]int, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, n := range moves {
		if h.data.Moves[w] == nil {
			h.data.Moves[w] = map[string]int{}
		}
		hour := hourOf(now)
		h.data.Moves[w][hour] += n
		h.dirty = true
	}
}

// moved is how many moves each workload has had within movesFor.
func (h *moveHistory) moved(now time.Time) map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	first := now.Add(-movesFor).Unix() / 3600
	out := map[string]int{}
	for w, hours := range h.data.Moves {
		for hour, n := range hours {
			if t, err := strconv.ParseInt(hour, 10, 64); err == nil && t > first {
				out[w] += n
				continue
			}
			delete(hours, hour)
			h.dirty = true
		}
		if len(hours) == 0 {
			delete(h.data.Moves, w)
		}
	}
	return out
}

// fail remembers that a replacement for a claim's node has failed.
func (h *moveHistory) fail(claim, why string, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.data.Failed[claim]
	f.Until = now.Add(min(failedFirst<<min(f.Times, 10), failedMost))
	f.Times++
	f.Why = why
	h.data.Failed[claim] = f
	h.dirty = true
}

// failed says why no replacement is bought for a claim's node now.
func (h *moveHistory) failed(claim string, now time.Time) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f, ok := h.data.Failed[claim]
	if !ok || !now.Before(f.Until) {
		return "", false
	}
	return fmt.Sprintf("replacing it has failed (%s); tried again at %s", f.Why, f.Until.UTC().Format(time.RFC3339)), true
}

// encode returns what is to be stored, if anything has changed. Failures of
// claims that are gone, or long past, are left out.
func (h *moveHistory) encode(alive func(string) bool, now time.Time) (string, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.dirty {
		return "", false, nil
	}
	for name, f := range h.data.Failed {
		if !alive(name) || now.After(f.Until.Add(failedMost)) {
			delete(h.data.Failed, name)
		}
	}
	data, err := json.Marshal(h.data)
	if err != nil {
		return "", false, fmt.Errorf("encoding the history of moves: %w", err)
	}
	h.dirty = false
	return string(data), true, nil
}

// decode takes over what a former leader has stored.
func (h *moveHistory) decode(data string) error {
	var d historyData
	if err := json.Unmarshal([]byte(data), &d); err != nil {
		return fmt.Errorf("reading the history of moves: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, hours := range d.Moves {
		if hours != nil {
			h.data.Moves[w] = hours
		}
	}
	for name, f := range d.Failed {
		h.data.Failed[name] = f
	}
	return nil
}

func (h *moveHistory) retry() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dirty = true
}

// load reads the history that a former leader has stored.
func (c *consolidation) load(ctx context.Context) {
	cm := &corev1.ConfigMap{}
	err := c.cfg.APIReader.Get(ctx, client.ObjectKey{Namespace: c.cfg.Namespace, Name: v1alpha1.ConsolidationConfigMap}, cm)
	if err == nil {
		err = c.history.decode(cm.Data[historyKey])
	}
	if client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
		c.log.Error(err, "the history of moves is lost; workloads may be moved once more today than they ask for")
	}
}

// flush stores the history if it has changed.
func (c *consolidation) flush(ctx context.Context, now time.Time) {
	data, changed, err := c.history.encode(func(name string) bool {
		_, ok := one[*v1alpha1.NodeClaim](c.stores.claims, name)
		return ok
	}, now)
	if err == nil && changed {
		cm := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.cfg.Namespace, Name: v1alpha1.ConsolidationConfigMap},
			Data:       map[string]string{historyKey: data},
		}
		err = c.cfg.Client.Update(ctx, cm)
		if apierrors.IsNotFound(err) {
			err = c.cfg.Client.Create(ctx, cm)
		}
	}
	if err != nil && ctx.Err() == nil {
		c.history.retry()
		c.log.Error(err, "storing the history of moves failed; tried again")
	}
}
