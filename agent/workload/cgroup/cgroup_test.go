package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// tells writes what a Ref says as the golden files do.
func tells(r Ref, ok bool) string {
	if !ok {
		return "-"
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	var parts []string
	if r.Pod != (Pod{}) {
		parts = append(parts, "pod="+dash(r.UID), "container="+dash(r.Container))
	}
	if r.Runtime != Unknown {
		parts = append(parts, "runtime="+r.Runtime.String())
	}
	if r.Outer != (Pod{}) {
		parts = append(parts, "outer="+r.Outer.UID+"/"+r.Outer.Container)
	}
	if r.Job != "" {
		parts = append(parts, "job="+r.Job)
	}
	return strings.Join(parts, " ")
}

type golden struct{ path, want string }

func goldens(tb testing.TB, name string) (cases []golden) {
	tb.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		path, want, ok := strings.Cut(line, "\t")
		if !ok {
			tb.Fatalf("%s: %q has no tab", name, line)
		}
		cases = append(cases, golden{path, want})
	}
	return cases
}

func TestGolden(t *testing.T) {
	for _, file := range []string{"recorded.txt", "forms.txt"} {
		cases := goldens(t, file)
		if len(cases) < 90 {
			t.Errorf("%s has %d cases", file, len(cases))
		}
		for _, c := range cases {
			texts := map[string]string{
				"v2":     "0::" + c.path + "\n",
				"v1":     "9:name=systemd:" + c.path + "\n8:pids:" + c.path + "\n3:cpuset:" + c.path + "\n",
				"hybrid": "12:memory:" + c.path + "\n1:name=systemd:" + c.path + "\n0::/\n",
				"last":   "4:devices:/\n3:cpu,cpuacct:/system.slice/x.service\n0::" + c.path, // no newline
			}
			for form, text := range texts {
				if got := tells(Parse([]byte(text))); got != c.want {
					t.Errorf("%s, %s of %s:\n got %s\nwant %s", file, form, c.path, got, c.want)
				}
			}
		}
	}
}

const (
	aPod  = "0f4f1d2c-9a1b-4c3d-8e5f-a0b1c2d3e4f5"
	other = "11111111-2222-3333-4444-555555555555"
)

var (
	anID    = strings.Repeat("0123456789abcdef", 4)
	otherID = strings.Repeat("f", idLength)
)

func TestLinesThatDiffer(t *testing.T) {
	pod := "/kubepods/pod" + aPod
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"the one that tells most": {
			[]string{"3:cpu:/../" + anID, "2:memory:" + pod, "1:pids:" + pod + "/" + anID, "0::/"},
			"pod=" + aPod + " container=" + anID,
		},
		"of equals the first": {
			[]string{"1:pids:" + pod + "/" + anID, "0::/kubepods/pod" + other + "/" + otherID},
			"pod=" + aPod + " container=" + anID,
		},
		"a job in one hierarchy": {
			[]string{"4:name=systemd:/system.slice/slurmd.service", "3:devices:/slurm/uid_1/job_5/step_0"},
			"job=5",
		},
		"a job and a pod": {
			[]string{"4:devices:/slurm/uid_1/job_5/step_0", "3:cpu:" + pod + "/" + anID},
			"pod=" + aPod + " container=" + anID + " job=5",
		},
		"what is no line": {[]string{"", ":", "::", "0:", "0::", "0:" + pod, pod, "x"}, "-"},
	} {
		if got := tells(Parse([]byte(strings.Join(c.lines, "\n")))); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestBounded(t *testing.T) {
	line := "0::/kubepods/pod" + aPod + "/" + anID + "\n"
	if _, ok := Parse([]byte(strings.Repeat("1:cpu:/\n", maxLines-1) + line)); !ok {
		t.Error("the last line is not read")
	}
	if r, ok := Parse([]byte(strings.Repeat("1:cpu:/\n", maxLines) + line)); ok {
		t.Errorf("a line beyond %d is read: %+v", maxLines, r)
	}
	if r, ok := Parse([]byte("1:cpu:/" + strings.Repeat("a", MaxBytes) + "\n" + line)); ok {
		t.Errorf("text beyond %d bytes is read: %+v", MaxBytes, r)
	}
}

func TestDoesNotKeepText(t *testing.T) {
	text := []byte("0::/kubepods/pod" + aPod + "/" + anID + "\n")
	r, _ := Parse(text)
	clear(text)
	if r.UID != aPod || r.Container != anID {
		t.Errorf("%+v", r)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"recorded.txt", "forms.txt"} {
		for i, c := range goldens(f, file) {
			f.Add(fmt.Appendf(nil, "%d::%s\n", i%3, c.path))
		}
	}
	f.Add([]byte("::\n0::/..\n0::/" + strings.Repeat("../", 100)))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, ok := Parse(text)
		if ok != (r != Ref{}) {
			t.Fatalf("%v: %+v", ok, r)
		}
		for _, p := range []Pod{r.Pod, r.Outer} {
			if p.UID != "" && (!isUID([]byte(p.UID)) || p.UID != canonical([]byte(p.UID))) {
				t.Fatalf("UID %q", p.UID)
			}
			if p.Container != "" && (!isID([]byte(p.Container)) || !bytes.Contains(text, []byte(p.Container))) {
				t.Fatalf("container %q", p.Container)
			}
		}
		if r.Job != "" && !isNumber([]byte(r.Job)) {
			t.Fatalf("job %q", r.Job)
		}
		if r.Outer != (Pod{}) && r.UID == "" {
			t.Fatalf("an outer pod, and none inside: %+v", r)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	path := "/kubepods/burstable/pod" + aPod + "/" + anID + "\n"
	v1 := new(bytes.Buffer)
	for i := range 12 {
		fmt.Fprintf(v1, "%d:controller:%s", 12-i, path)
	}
	for name, text := range map[string][]byte{"v1": v1.Bytes(), "v2": []byte("0::" + path), "none": []byte("0::/system.slice/ssh.service\n")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(text)
			}
		})
	}
}
