package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ours are the components whose errors are shown when something failed.
var ours = []string{"provisioner", "webhook", "ec2sim"}

// klogError begins an error line of klog: E, month and day.
var klogError = regexp.MustCompile(`^[EF][0-9]{4} `)

// lastErrors returns the last n error lines of a log, in JSON as zap writes it
// or as klog does, made readable; a Go panic counts as one.
func lastErrors(log string, n int) []string {
	var out []string
	for _, line := range strings.Split(log, "\n") {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil {
			if level := fmt.Sprint(entry["level"]); level == "error" || level == "dpanic" || level == "panic" || level == "fatal" {
				out = append(out, readable(entry))
			}
			continue
		}
		if klogError.MatchString(line) || strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			out = append(out, line)
		}
	}
	return out[max(0, len(out)-n):]
}

// readable is a zap entry as "message: error (facts)".
func readable(entry map[string]any) string {
	text := fmt.Sprint(entry["msg"])
	if err, ok := entry["error"]; ok {
		text += ": " + fmt.Sprint(err)
	}
	var facts []string
	for _, k := range sortedKeys(entry) {
		switch k {
		case "level", "ts", "time", "msg", "error", "logger", "caller", "stacktrace", "controller", "controllerGroup", "controllerKind", "reconcileID", "namespace":
		default:
			facts = append(facts, fmt.Sprintf("%s=%v", k, entry[k]))
		}
	}
	if len(facts) > 0 {
		text += " (" + strings.Join(facts, " ") + ")"
	}
	return text
}

// componentErrors reads the last errors of each of our components.
func componentErrors(logs string) map[string][]string {
	out := map[string][]string{}
	for _, name := range ours {
		data, err := os.ReadFile(filepath.Join(logs, name+".log"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // It was never started; devcluster has said so.
		case err != nil:
			out[name] = []string{err.Error()}
		default:
			out[name] = lastErrors(string(data), 3)
		}
	}
	return out
}
