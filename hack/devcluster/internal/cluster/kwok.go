package cluster

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"path"
)

const (
	// nodeAnnotation marks the nodes that kwok plays the kubelet of.
	nodeAnnotation = "kwok.x-k8s.io/node"
	// stoppedLabel on a node stops its kubelet: kwok lets go of the node and
	// of the pods on it at once.
	stoppedLabel = "devcluster.berth.dev/kubelet-stopped"
)

//go:embed stages/*.yaml
var stages embed.FS

// kwokConfig returns kwok's configuration file: options, then the stages.
func kwokConfig() ([]byte, error) {
	options, err := json.Marshal(map[string]any{
		"apiVersion": "config.kwok.x-k8s.io/v1alpha1",
		"kind":       "KwokConfiguration",
		"options": map[string]any{
			"enableDebuggingHandlers":   false,
			"enableProfilingHandler":    false,
			"enableContentionProfiling": false,
			// Requests in flight. Few for pods on purpose: kubelets run on
			// machines of their own, and a burst of pods that start must not
			// take the CPU from the scheduler that binds the next ones.
			"podPlayStageParallelism":  4,
			"nodePlayStageParallelism": 8,
			// When a node appears, kwok lists the pods that are bound to it
			// already; such a list may wait for the API server's cache, and
			// nodes come in bursts.
			"podsOnNodeSyncParallelism":       16,
			"enablePodsOnNodeSyncListPager":   false,
			"enablePodsOnNodeSyncStreamWatch": false,
			// 0: kwok's own lease manager is off, the lease stages do it.
			// With it on, kwok ignores the pods of a node until its own watch
			// has brought back the lease that it created, and a pod that was
			// bound before (as Berth's Immediate binding does) can be ignored
			// for ever.
			"nodeLeaseDurationSeconds": 0,
		},
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Write(options)
	entries, err := stages.ReadDir("stages")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		data, err := stages.ReadFile(path.Join("stages", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading stage %s: %w", entry.Name(), err)
		}
		out.WriteString("\n---\n")
		out.Write(data)
	}
	return out.Bytes(), nil
}
