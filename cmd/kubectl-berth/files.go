package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/berth-dev/berth/internal/manifest"
)

// readFiles reads manifests: files, directories (their .yaml, .yml and .json
// files, not those of directories in them) and "-", standard input.
func readFiles(set *manifest.Set, names []string, stdin io.Reader) error {
	for _, name := range names {
		if name == "-" {
			if err := set.Read("-", stdin); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			if err := readFile(set, name); err != nil {
				return err
			}
			continue
		}
		entries, err := os.ReadDir(name)
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
				found = true
				if err := readFile(set, filepath.Join(name, e.Name())); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("%s: no .yaml, .yml or .json file in this directory", name)
		}
	}
	return nil
}

func readFile(set *manifest.Set, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // Only read from.
	return set.Read(name, f)
}
