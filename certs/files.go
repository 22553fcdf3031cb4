package certs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds a certificate file, in bytes.
const maxFile = 1 << 20

// fileSource reads what somebody else puts into a folder. It is read anew at
// each look; a pair that does not parse, or does not match while it is being
// replaced, leaves the last one in use.
type fileSource struct {
	config Config
}

func (s *fileSource) step(context.Context, look) ([]*Pair, *Publication, bool, error) {
	fail := func(err error) ([]*Pair, *Publication, bool, error) { return nil, nil, false, err }
	cert, err := readFile(filepath.Join(s.config.Dir, keyCert))
	if err != nil {
		return fail(err)
	}
	key, err := readFile(filepath.Join(s.config.Dir, keyKey))
	if err != nil {
		return fail(err)
	}
	bundle, err := readFile(filepath.Join(s.config.Dir, keyCACert))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	p, err := ParsePair(cert, key)
	if err != nil {
		return fail(fmt.Errorf("reading the certificate in %s: %w", s.config.Dir, err))
	}
	return []*Pair{p}, &Publication{CABundle: bundle}, false, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}
