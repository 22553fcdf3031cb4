package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrUsage marks an error that the user mends by calling differently.
var ErrUsage = errors.New("usage")

// usageError is an ErrUsage whose text is only its own line.
type usageError struct{ text string }

func (e usageError) Error() string        { return e.text }
func (e usageError) Is(target error) bool { return target == ErrUsage }

// Usagef returns an error that is ErrUsage.
func Usagef(format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...)}
}

// claimDir makes dir this process's own for as long as release is not called
// and the process lives. What a dead cluster left there is removed; found says
// that there was some. A live cluster's folder and a folder with other files
// are refused with ErrUsage.
func claimDir(dir string) (release func(), found bool, err error) {
	l := layout{dir}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, false, fmt.Errorf("making %s: %w", dir, err)
		}
	case err != nil:
		return nil, false, Usagef("--dir %s cannot be used: %v", dir, err)
	}
	ours := len(entries) == 0
	for _, entry := range entries {
		if entry.Name() == filepath.Base(l.lock()) {
			ours = true
		}
	}
	if !ours {
		return nil, false, Usagef("--dir %s holds files that are not a devcluster's; give an empty or a new folder", dir)
	}

	// The kernel drops the lock with the process, so a lock that is taken is
	// the proof of a live cluster, and a process id in a file would be none.
	lock, err := os.OpenFile(l.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("opening the lock of %s: %w", dir, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(l.lock())
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, false, Usagef("a cluster runs in --dir %s (process %s); stop it or give another folder", dir, strings.TrimSpace(string(pid)))
		}
		return nil, false, fmt.Errorf("locking %s: %w", dir, err)
	}
	for _, name := range l.owned() {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err == nil {
			found = true
		}
		if err := os.RemoveAll(path); err != nil {
			lock.Close()
			return nil, false, fmt.Errorf("removing what an earlier cluster left: %w", err)
		}
	}
	if err := errors.Join(lock.Truncate(0), writePid(lock)); err != nil {
		lock.Close()
		return nil, false, fmt.Errorf("writing the lock of %s: %w", dir, err)
	}
	return func() { lock.Close() }, found, nil
}

func writePid(lock *os.File) error {
	_, err := lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return err
}

// siblingPath is where a program of Berth's repository is expected.
func siblingPath(binDir, name string) string { return filepath.Join(binDir, name) }

// checkSiblings returns ErrUsage when one of the programs is not there.
func checkSiblings(binDir string, names []string) error {
	for _, name := range names {
		info, err := os.Stat(siblingPath(binDir, name))
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			return Usagef("%s is not in %s; run make build", name, binDir)
		}
	}
	return nil
}

// hasYAML says whether dir is a folder with YAML files directly in it.
func hasYAML(dir string) bool {
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		if matches, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(matches) > 0 {
			return true
		}
	}
	return false
}
