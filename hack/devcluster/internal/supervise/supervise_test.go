package supervise

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays the children. What it is to do is in this variable.
const role = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "polite": // ends on SIGTERM
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("here")
		<-signals
		fmt.Println("bye")
	case "deaf": // does not
		signal.Ignore(syscall.SIGTERM)
		never := make(chan os.Signal, 1)
		signal.Notify(never, syscall.SIGUSR2)
		fmt.Println("here")
		<-never
	case "failing":
		fmt.Println("it hurts")
		os.Exit(3)
	case "parent": // supervises a deaf child until somebody kills it
		s := New()
		dir := os.Getenv("SUPERVISE_TEST_DIR")
		p, err := s.Start(Spec{Name: "child", Path: os.Args[0], Env: []string{role + "=deaf"}, Dir: dir, Log: filepath.Join(dir, "child.log")})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.Pid())
		select {}
	}
}

// start runs the test binary in a role and waits until it has said a line.
func start(t *testing.T, s *Supervisor, as string) *Process {
	t.Helper()
	dir := t.TempDir()
	p, err := s.Start(Spec{Name: as, Path: os.Args[0], Env: []string{role + "=" + as}, Dir: dir, Log: filepath.Join(dir, "logs", as+".log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop([]*Process{p}, 0, nil) })
	eventually(t, as+" says something", func() bool { return Tail(p.Log(), 1) != "(no output)" })
	return p
}

// eventually waits for a condition that other processes bring about.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := string(data[strings.LastIndexByte(string(data), ')')+1:])
	return !strings.HasPrefix(strings.TrimSpace(after), "Z")
}

func TestStopEndsAProcessThatListensWithoutKillingIt(t *testing.T) {
	s := New()
	p := start(t, s, "polite")
	if killed := s.Stop([]*Process{nil, p}, 20*time.Second, nil); len(killed) > 0 {
		t.Errorf("killed %v, want none", killed)
	}
	if got, want := Tail(p.Log(), 5), "here\nbye"; got != want {
		t.Errorf("log is %q, want %q", got, want)
	}
	select {
	case exit := <-s.Exits():
		t.Errorf("a stop that was asked for is reported as %s", exit.Describe())
	default:
	}
	// A second time there is nothing to do.
	if killed := s.Stop([]*Process{p}, 20*time.Second, nil); len(killed) > 0 {
		t.Errorf("the second stop killed %v", killed)
	}
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		grace time.Duration
		hurry bool
	}{
		"after the grace":         {grace: 50 * time.Millisecond},
		"at once when in a hurry": {grace: time.Hour, hurry: true},
		"at once without a grace": {grace: 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			p := start(t, s, "deaf")
			hurry := make(chan struct{})
			if tc.hurry {
				close(hurry)
			}
			killed := s.Stop([]*Process{p}, tc.grace, hurry)
			if len(killed) != 1 || killed[0] != "deaf" {
				t.Errorf("killed %v, want deaf", killed)
			}
			if alive(p.Pid()) {
				t.Error("it is still there")
			}
		})
	}
}

func TestAnExitThatNobodyAskedForIsReported(t *testing.T) {
	for name, tc := range map[string]struct {
		role string
		kill bool
		want string
	}{
		"its own exit":       {role: "failing", want: "exited with status 3"},
		"a signal of others": {role: "deaf", kill: true, want: "was killed by signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			p := start(t, s, tc.role)
			if tc.kill {
				if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case exit := <-s.Exits():
				if exit.Process != p || exit.Describe() != tc.want {
					t.Errorf("got %s: %s, want %s: %s", exit.Process.Name(), exit.Describe(), tc.role, tc.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no report")
			}
			<-p.Done()
		})
	}
}

func TestStartNamesTheProgramThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := New().Start(Spec{Name: "etcd", Path: filepath.Join(dir, "none"), Dir: dir, Log: filepath.Join(dir, "log")})
	if err == nil || !strings.Contains(err.Error(), "starting etcd") {
		t.Errorf("error is %v, want one that names etcd", err)
	}
}

// The parent is killed so that it cannot do anything, and its child must die
// although it ignores SIGTERM.
func TestChildrenDieWithTheirParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ties a child's life to its parent's")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = []string{role + "=parent", "SUPERVISE_TEST_DIR=" + t.TempDir()}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent says %q", line)
	}
	if !alive(child) {
		t.Fatal("the child is not there")
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as it should be
	eventually(t, "the child is gone", func() bool { return !alive(child) })
}

func TestTail(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 99)+"\n", 1000) + "last\n"
	for name, tc := range map[string]struct {
		text string
		n    int
		want string
	}{
		"fewer lines than asked for": {"a\nb\n", 5, "a\nb"},
		"only the last lines":        {"a\nb\nc\n", 2, "b\nc"},
		"nothing":                    {"", 3, "(no output)"},
		"a log beyond the window":    {long, 1, "last"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := Tail(path, tc.n); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	if got := Tail(filepath.Join(t.TempDir(), "none"), 3); !strings.Contains(got, "no such file") {
		t.Errorf("a missing log gives %q", got)
	}
}
