// Command catalog writes the instance catalogue that Berth ships
// (internal/catalog/catalog.json.gz) from the data of
// github.com/cristim/ec2-instances-info (data MIT, collected by
// ec2instances.info).
//
// It is a module of its own, so that neither the product nor its tests depend
// on the 130 MB of data. Run it from its folder:
//
//	go run .           # write the file
//	go run . -check    # exit 1 if the file is stale
//
// The output has the format that internal/catalog documents. What the data
// does not say is derived by the rules in rules.go, each with its source, or
// left out: an absent key means unknown, never zero.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// dataModule is the name the data module declares for itself; go.mod replaces
// it by the fork that the proxy serves.
const dataModule = "github.com/LeanerCloud/ec2-instances-info"

func main() {
	out := flag.String("out", filepath.FromSlash("../../internal/catalog/catalog.json.gz"), "`file` to write")
	check := flag.Bool("check", false, "write nothing; exit 1 if the file is not what would be written")
	flag.Parse()
	if flag.NArg() != 0 {
		fmt.Fprintln(os.Stderr, "catalog: unexpected argument", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(*out, *check); err != nil {
		fmt.Fprintln(os.Stderr, "catalog:", err)
		os.Exit(1)
	}
}

func run(out string, check bool) error {
	version, dir, err := locate()
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(dir, "data", "instances.json"))
	if err != nil {
		return fmt.Errorf("reading the data module: %w", err)
	}
	var sources []source
	if err := json.Unmarshal(raw, &sources); err != nil {
		return fmt.Errorf("parsing the data module: %w", err)
	}
	text, err := render(sources, version)
	if err != nil {
		return err
	}
	if check {
		return compare(out, text)
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(text); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, packed.Bytes(), 0o644)
}

// locate asks the go command where the data module is, downloading it if it
// is not in the module cache yet.
func locate() (version, dir string, err error) {
	if out, err := exec.Command("go", "mod", "download", dataModule).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("downloading %s: %w: %s", dataModule, err, out)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Replace.Path}}@{{.Replace.Version}}\t{{.Dir}}", dataModule).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", "", fmt.Errorf("locating %s: %w", dataModule, err)
	}
	version, dir, ok := strings.Cut(strings.TrimSpace(string(out)), "\t")
	if !ok || dir == "" {
		return "", "", fmt.Errorf("locating %s: the go command answered %q", dataModule, out)
	}
	return version, dir, nil
}

// compare fails when the file does not unpack to text. The unpacked text is
// compared, because another Go release may compress the same text to other
// bytes.
func compare(file string, text []byte) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	have, err := io.ReadAll(z)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if !bytes.Equal(have, text) {
		return fmt.Errorf("%s is stale: run the generator and commit the result", file)
	}
	return nil
}

// render lays out the whole catalogue, one type a line, so that a diff of the
// unpacked text shows which types changed.
func render(sources []source, version string) ([]byte, error) {
	sort.Slice(sources, func(i, j int) bool { return sources[i].InstanceType < sources[j].InstanceType })
	meta, err := json.Marshal(describe(version))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"meta\":%s,\n\"types\":{", meta)
	first := true
	for _, s := range sources {
		rec, ok, err := derive(s)
		if err != nil {
			return nil, fmt.Errorf("type %s: %w", s.InstanceType, err)
		}
		if !ok {
			continue
		}
		line, err := json.Marshal(rec)
		if err != nil {
			return nil, fmt.Errorf("type %s: %w", s.InstanceType, err)
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		fmt.Fprintf(&b, "\n%q:%s", s.InstanceType, line)
	}
	b.WriteString("}}\n")
	return b.Bytes(), nil
}
