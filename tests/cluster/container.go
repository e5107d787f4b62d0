package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// imageMap maps image names to the programs that stand for them.
type imageMap map[string]string

func (m imageMap) String() string { return "" }

// Set parses IMAGE=FILE.
func (m imageMap) Set(v string) error {
	name, file, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("want IMAGE=FILE, got %q", v)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(abs); err != nil {
		return err
	}
	m[name] = abs
	return nil
}

// find looks an image up by its full name, then without its tag.
func (m imageMap) find(image string) (string, bool) {
	if f, ok := m[image]; ok {
		return f, true
	}
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") {
		f, ok := m[image[:i]]
		return f, ok
	}
	return "", false
}

// mount puts src of the machine at dst in the container.
type mount struct {
	src, dst string
	readOnly bool
}

// processSpec says how to run a container's process.
type processSpec struct {
	ns       netns.NsHandle
	hostname string
	dir      string // scratch space for the container's root
	argv     []string
	env      []string
	cwd      string
	mounts   []mount
	security security
	logFile  string
}

// process is a running container.
type process struct {
	pid      int
	done     chan struct{}
	exitCode int // valid once done is closed
}

// signal sends a signal to the process and its children.
func (p *process) signal(sig syscall.Signal) { _ = syscall.Kill(-p.pid, sig) }

// startProcess starts a program in the pod's network namespace and in new
// mount and UTS namespaces, on a writable overlay of the machine's own root
// file system, so that what it writes and where volumes are mounted is seen by
// it alone. A thread enters the namespaces, starts the child and stays until
// the child has ended; it is never reused.
func startProcess(s *processSpec) (*process, error) {
	type result struct {
		p   *process
		err error
	}
	logFile, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		_ = logFile.Close()
		return nil, err
	}
	go copyLog(logFile, reader)
	started := make(chan result)
	go func() {
		runtime.LockOSThread()
		cmd, err := launch(s, writer)
		_ = writer.Close()
		if err != nil {
			started <- result{err: err}
			return
		}
		p := &process{pid: cmd.Process.Pid, done: make(chan struct{})}
		started <- result{p: p}
		err = cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			p.exitCode = exit.ExitCode()
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
				p.exitCode = 128 + int(ws.Signal())
			}
		}
		p.signal(syscall.SIGKILL) // children it left behind
		close(p.done)
	}()
	r := <-started
	return r.p, r.err
}

// launch runs on a locked thread that it changes for good.
func launch(s *processSpec, output *os.File) (*exec.Cmd, error) {
	if err := netns.Set(s.ns); err != nil {
		return nil, fmt.Errorf("setns: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Sethostname([]byte(s.hostname)); err != nil {
		return nil, err
	}
	if err := enterRoot(s); err != nil {
		return nil, err
	}
	cmd := exec.Command(s.argv[0], s.argv[1:]...)
	cmd.Env, cmd.Dir = s.env, s.cwd
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: s.security.uid, Gid: s.security.gid, Groups: s.security.groups}}
	if err := s.security.restrict(); err != nil {
		return nil, err
	}
	return cmd, cmd.Start()
}

// enterRoot builds the container's root file system and makes it the thread's.
func enterRoot(s *processSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	upper, work, root := filepath.Join(s.dir, "upper"), filepath.Join(s.dir, "work"), filepath.Join(s.dir, "root")
	for _, d := range []string{upper, work, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	opts := "lowerdir=/,upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	// Sources are cloned now: after chroot they cannot be named any more.
	all := append([]mount{{src: "/proc", dst: "/proc"}, {src: "/dev", dst: "/dev"}, {src: "/sys", dst: "/sys"}}, s.mounts...)
	trees := make([]int, len(all))
	for i, m := range all {
		fd, err := unix.OpenTree(unix.AT_FDCWD, m.src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("mount source %s: %w", m.src, err)
		}
		defer unix.Close(fd)
		trees[i] = fd
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for i, m := range all {
		if err := mountPoint(trees[i], m.dst); err != nil {
			return err
		}
		if err := unix.MoveMount(trees[i], "", unix.AT_FDCWD, m.dst, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", m.dst, err)
		}
		if m.readOnly {
			if err := unix.Mount("", m.dst, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return fmt.Errorf("read-only %s: %w", m.dst, err)
			}
		}
	}
	if s.security.readOnlyRoot {
		// Of this mount only: what is mounted below it stays writable.
		if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

// mountPoint makes dst a directory or an empty file, like the tree to mount.
func mountPoint(tree int, dst string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(dst, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}
