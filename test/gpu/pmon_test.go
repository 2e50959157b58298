package gpu

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// pmonTable is what nvidia-smi pmon has shown.
type pmonTable struct {
	Rows    []pmonRow `json:"rows"`
	Skipped int       `json:"skipped"` // lines that make no sense
}

// pmonRow is a process in the second before a time; nil is not told. Where no
// process was on the GPU there is a row without one.
type pmonRow struct {
	Unix    int64  `json:"unix"`
	PID     int    `json:"pid"` // 0: none
	SM      *int   `json:"sm"`  // %
	Mem     *int   `json:"mem"` // %
	FB      *int   `json:"fb"`  // MB
	Command string `json:"command"`
}

// mean is a process's mean sm % over the seconds [from, to). A second in which
// it has no figure counts as 0.
func (p *pmonTable) mean(pid int, from, to int64) float64 {
	if p == nil {
		return 0
	}
	times, sum := map[int64]bool{}, 0
	for _, r := range p.Rows {
		if r.Unix <= from || r.Unix > to { // it is about the second before
			continue
		}
		times[r.Unix] = true
		if r.PID == pid && r.SM != nil {
			sum += *r.SM
		}
	}
	if len(times) == 0 {
		return 0
	}
	return float64(sum) / float64(len(times))
}

// Bounds of what is read.
const (
	pmonBytes = 4 << 20
	pmonLine  = 4096
	pmonRows  = 50_000
)

// parsePmon reads the table that pmon -o DT prints in UTC. Which columns there
// are differs between drivers; its header tells.
func parsePmon(in io.Reader) (*pmonTable, error) {
	t := &pmonTable{}
	lines := bufio.NewScanner(io.LimitReader(in, pmonBytes))
	lines.Buffer(make([]byte, pmonLine), pmonLine)
	var columns []string
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		head, isHead := strings.CutPrefix(line, "#")
		switch {
		case line == "":
		case isHead:
			if names := strings.Fields(strings.ToLower(head)); slices.Contains(names, "pid") {
				columns = names
			}
		case columns == nil:
			return nil, fmt.Errorf("pmon says %.200q where its header should be", line)
		default:
			row, ok := pmonFields(columns, strings.Fields(line))
			if !ok || len(t.Rows) >= pmonRows {
				t.Skipped++
				continue
			}
			t.Rows = append(t.Rows, row)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read pmon's table: %w", err)
	}
	for _, name := range []string{"date", "time", "pid", "sm"} {
		if !slices.Contains(columns, name) {
			return nil, fmt.Errorf("pmon has no column %s, but %.200q", name, columns)
		}
	}
	return t, nil
}

// pmonFields reads a line; the last column may have blanks.
func pmonFields(columns, fields []string) (row pmonRow, ok bool) {
	if len(fields) < len(columns) {
		return row, false
	}
	of := map[string]string{}
	for i, name := range columns {
		of[name] = fields[i]
	}
	if last := len(columns) - 1; columns[last] == "command" {
		of["command"] = strings.Join(fields[last:], " ")
	}
	at, err := time.Parse("20060102 15:04:05", of["date"]+" "+of["time"])
	if err != nil {
		return row, false
	}
	row = pmonRow{Unix: at.Unix(), Command: strings.ToValidUTF8(of["command"], "?")}
	number := func(name string, most int) *int {
		n, err := strconv.Atoi(cmp.Or(of[name], "-"))
		switch {
		case err == nil && n >= 0 && n <= most:
			return &n
		case of[name] != "-" && of[name] != "":
			ok = false
		}
		return nil
	}
	ok = true
	if pid := number("pid", 1<<31-1); pid != nil {
		row.PID = *pid
	}
	row.SM, row.Mem, row.FB = number("sm", 100), number("mem", 100), number("fb", 1<<30)
	return row, ok
}

// pmon is nvidia-smi, running.
type pmon struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
	stop     context.CancelFunc
}

// startPmon has nvidia-smi (or, on the stub, this program) print so many times,
// a second apart.
func (r *rig) startPmon(times int64) *pmon {
	r.Helper()
	ctx, stop := context.WithTimeout(r.Context(), time.Duration(times+30)*time.Second)
	path := "nvidia-smi"
	if r.stub != nil {
		path = os.Args[0]
	}
	p := &pmon{stop: stop, cmd: exec.CommandContext(ctx, path, "pmon", "-i", strconv.Itoa(r.index), "-s", "um", "-d", "1", "-o", "DT", "-c", strconv.FormatInt(times, 10))}
	p.cmd.Env = append(os.Environ(), "TZ=UTC")
	if r.stub != nil {
		p.cmd.Env = append(p.cmd.Env, envPmon+"="+r.library)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		stop()
		p.cmd = nil
		p.err.WriteString(err.Error())
	}
	return p
}

// table waits for its end, and reads what it has printed.
func (p *pmon) table(keep func([]byte)) (*pmonTable, error) {
	defer p.stop()
	if p.cmd == nil {
		return nil, errors.New(p.err.String())
	}
	err := p.cmd.Wait()
	keep(p.out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("nvidia-smi pmon: %w: %.400s%.400s", err, p.err.String(), p.out.String())
	}
	return parsePmon(&p.out)
}

// envPmon, with the driver's library, makes this program a stand-in for
// nvidia-smi, which does not start on the stub.
const envPmon = "GPULEDGER_GPU_PRETEND_PMON"

// pretendPmon prints what nvidia-smi would.
func pretendPmon(args []string) int {
	if err := printPmon(args, nvml.New(nvml.WithLibraryPath(os.Getenv(envPmon))), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func printPmon(args []string, api nvml.Interface, out io.Writer) error {
	f := flag.NewFlagSet("pmon", flag.ContinueOnError)
	index, times := f.Int("i", 0, "GPU"), f.Int("c", 1, "times")
	for _, name := range []string{"s", "d", "o"} {
		f.String(name, "", "as nvidia-smi has it")
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if ret := api.Init(); ret != nvml.SUCCESS {
		return fmt.Errorf("nvmlInit: %w", ret)
	}
	device, ret := api.DeviceGetHandleByIndex(*index)
	if ret != nvml.SUCCESS {
		return fmt.Errorf("nvmlDeviceGetHandleByIndex: %w", ret)
	}
	fmt.Fprint(out, "#Date       Time        gpu         pid   type     sm    mem    enc    dec    jpg    ofa     fb   ccpm    command \n")
	fmt.Fprint(out, "#YYYYMMDD   HH:MM:SS    Idx           #    C/G      %      %      %      %      %      %     MB     MB    name \n")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range *times {
		since := uint64(time.Now().UnixMicro())
		at := (<-tick.C).UTC().Format("20060102   15:04:05")
		samples, ret := device.GetProcessUtilization(since)
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_FOUND {
			return fmt.Errorf("nvmlDeviceGetProcessUtilization: %w", ret)
		}
		running, ret := device.GetComputeRunningProcesses()
		if ret != nvml.SUCCESS {
			return fmt.Errorf("nvmlDeviceGetComputeRunningProcesses: %w", ret)
		}
		if len(running) == 0 {
			fmt.Fprintf(out, " %s      %d          -     -      -      -      -      -      -      -      -      -    -              \n", at, *index)
		}
		for _, p := range running {
			sm := "-"
			for _, s := range samples {
				if s.Pid == p.Pid {
					sm = strconv.Itoa(int(s.SmUtil))
				}
			}
			fmt.Fprintf(out, " %s      %d %10d     C %6s      0      -      -      -      - %6d      0    gpuload        \n", at, *index, p.Pid, sm, p.UsedGpuMemory>>20)
		}
	}
	return nil
}

const pmonOfDrivers = `#Date       Time        gpu         pid   type     sm    mem    enc    dec    jpg    ofa     fb   ccpm    command 
#YYYYMMDD   HH:MM:SS    Idx           #    C/G      %      %      %      %      %      %     MB     MB    name 
 20260102   03:04:05      0          -     -      -      -      -      -      -      -      -      -    -              
 20260102   03:04:06      0       4242     C     71     12      -      -      -      -   1024      0    python3        
 20260102   03:04:06      0       4243     C      -      -      -      -      -      -    512      0    my program     
`

func TestPmonIsRead(t *testing.T) {
	got, err := parsePmon(strings.NewReader(pmonOfDrivers))
	if err != nil || len(got.Rows) != 3 || got.Skipped != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Unix()
	a, b := got.Rows[1], got.Rows[2]
	if none := got.Rows[0]; none.PID != 0 || none.SM != nil || none.Unix != at {
		t.Errorf("%+v", none)
	}
	if a.PID != 4242 || *a.SM != 71 || *a.Mem != 12 || *a.FB != 1024 || a.Command != "python3" || a.Unix != at+1 {
		t.Errorf("%+v", a)
	}
	if b.SM != nil || b.Command != "my program" {
		t.Errorf("%+v", b)
	}
	if m := got.mean(4242, at-1, at+1); m != 35.5 {
		t.Errorf("a mean of %v", m)
	}
	// An older driver has fewer columns.
	old := "# Date     Time     gpu   pid  type    sm   mem   enc   dec    fb   command\n 20260102 03:04:06 0 7 C 9 1 0 0 5 x\n"
	if got, err = parsePmon(strings.NewReader(old)); err != nil || len(got.Rows) != 1 || *got.Rows[0].SM != 9 || *got.Rows[0].FB != 5 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestPmonNonsense(t *testing.T) {
	for _, text := range []string{"", "Not supported on the device(s)\n", "#Date Time gpu pid command\n", strings.Repeat("x", 5000)} {
		if got, err := parsePmon(strings.NewReader(text)); err == nil {
			t.Errorf("%.40q: %+v", text, got)
		}
	}
	head, _, _ := strings.Cut(pmonOfDrivers, "#YYYY")
	for _, line := range []string{
		"20260102 03:04:06 0 1 C 37100 0 0 0 0 0 1 0 x", "20260102 03:04:06 0 -5 C 1 0 0 0 0 0 1 0 x",
		"20261302 03:04:06 0 1 C 1 0 0 0 0 0 1 0 x", "20260102 03:04:06 0 1 C", "20260102 03:04:06 0 1 C nan 0 0 0 0 0 1 0 x",
	} {
		if got, err := parsePmon(strings.NewReader(head + line + "\n")); err != nil || len(got.Rows) != 0 || got.Skipped != 1 {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

func FuzzPmon(f *testing.F) {
	f.Add([]byte(pmonOfDrivers))
	f.Add([]byte("#date time pid sm\n20260102 03:04:06 1 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parsePmon(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, r := range got.Rows {
			if r.PID < 0 || (r.SM != nil && (*r.SM < 0 || *r.SM > 100)) {
				t.Errorf("%+v", r)
			}
		}
	})
}
