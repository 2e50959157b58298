package kube_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// How far the ledger may be from the truth, in time.
const (
	// late: the kubelet's list is asked for once a second, and then the pod is
	// waited for; a window is a second.
	late = 3 * time.Second
	// lingers: the kubelet lists a pod until it has seen that its containers
	// have stopped (1–2 s), and the list is asked for once a second.
	lingers = 5 * time.Second
)

// episode is a story that is being played: what has happened, and when.
type episode struct {
	*project
	*witness
	mu    sync.Mutex
	notes map[int64]string
}

// say begins a chapter.
func (e *episode) say(format string, args ...any) time.Time {
	text := fmt.Sprintf(format, args...)
	e.t.Logf("—— %s", text)
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if had := e.notes[now.Unix()]; had != "" {
		text = had + "; " + text
	}
	e.notes[now.Unix()] = text
	return now
}

// wait lets time pass: that is what the ledger is about.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// until waits until so many processes live whose names begin like this.
func (e *episode) until(ctx context.Context, prefix string, n int) []string {
	e.t.Helper()
	e.must(e.Await(ctx, fmt.Sprintf("%d × %s*", n, prefix), time.Minute, func(context.Context) error {
		if pods := e.living(prefix); len(pods) != n {
			return fmt.Errorf("there are %q", pods)
		}
		return nil
	}))
	return e.living(prefix)
}

const podSpec = `
      terminationGracePeriodSeconds: 3
      containers:
      - name: main
        image: kube.test/gpuload:1
        args: [--name, $(POD), %s]
        env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        resources: {limits: {nvidia.com/gpu: 1}}`

func (e *episode) deployment(ctx context.Context, version string) {
	e.t.Helper()
	e.must(e.Apply(ctx, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web, team: search, version: "`+version+`"}}
    spec:`+fmt.Sprintf(podSpec, `"--exit-code=0"`)))
}

func (e *episode) job(ctx context.Context, name, lasts string) {
	e.t.Helper()
	e.must(e.Apply(ctx, `
apiVersion: batch/v1
kind: Job
metadata: {name: `+name+`, namespace: default}
spec:
  template:
    metadata: {labels: {team: batch}}
    spec:
      restartPolicy: Never`+fmt.Sprintf(podSpec, `"--for=`+lasts+`"`)))
}

func (e *episode) pod(ctx context.Context, name, arg string) {
	e.t.Helper()
	spec := strings.ReplaceAll(fmt.Sprintf(podSpec, arg), "\n    ", "\n")
	e.must(e.Apply(ctx, `
apiVersion: v1
kind: Pod
metadata: {name: `+name+`, namespace: default, labels: {team: research}}
spec:
  restartPolicy: Never`+spec))
}

// TestEpisode plays what happens to pods on a node, with the pods known from
// the API server and with the kubelet's Pods API, and compares the ledger of
// all of it, by pod and second, with what the witnesses saw.
func TestEpisode(t *testing.T) {
	for name, podsAPI := range map[string]bool{"pods from the API server": false, "pods from the kubelet's Pods API": true} {
		t.Run(name, func(t *testing.T) { playEpisode(t, podsAPI) })
	}
}

func playEpisode(t *testing.T, podsAPI bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	p := startProject(ctx, t, podsAPI, []nvmlstub.Process{
		{Match: "--name web-", Device: gpuA, SM: 30, Memory: 8 * nvmlstub.GiB},
		{Match: "--name blink-", Device: gpuA, SM: 20, Memory: 4 * nvmlstub.GiB},
		{Match: "--name flash ", Device: gpuA, SM: 40, Memory: 4 * nvmlstub.GiB},
		{Match: "--name stubborn ", Device: gpuA, SM: 10, Memory: 4 * nvmlstub.GiB},
		{Match: "--name other ", Device: gpuB, SM: 50, Memory: 4 * nvmlstub.GiB},
	})
	w, err := newWitness()
	p.must(err)
	e := &episode{project: p, witness: w, notes: map[int64]string{}}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.watchProcesses(watching) })
	wg.Go(func() { w.watchPods(watching, p) })
	defer func() { stop(); wg.Wait() }()

	e.readSealed(ctx, time.Now().Unix(), time.Now().Unix()+1) // it has begun
	truth := e.play(ctx)
	from, to := truth.began.Unix(), time.Now().Unix()-3
	l := e.readSealed(ctx, from, to)
	t.Logf("the ledger of the episode\n%s", l.table(e.notes))
	e.check(l, truth)
	e.checkFacts(ctx, l)
	t.Logf("a pod of %s beside scrapers\n%s", truth.flash.lasted(), flashTable(l, truth.flash))
}

// story is what play did, as far as the checks are about it.
type story struct {
	began                  time.Time
	kubeletAway            [2]time.Time
	apiAway                [2]time.Time
	forced                 time.Time
	first, second          []string // pods of the Deployment, before and after the rollout
	flash, blink, forcedTo life
}

func (e *episode) play(ctx context.Context) *story {
	s := &story{began: e.say("a Deployment of two, each with a replica of GPU A")}
	e.deployment(ctx, "1")
	s.first = e.until(ctx, "web-", 2)
	wait(ctx, 5*time.Second)

	e.say("a Job of 3 s on the third replica")
	e.job(ctx, "blink", "3s")
	e.until(ctx, "blink-", 1)
	e.until(ctx, "blink-", 0)
	wait(ctx, 3*time.Second)

	e.say("a pod of 1.5 s")
	e.pod(ctx, "flash", `"--for=1500ms"`)
	e.until(ctx, "flash", 1)
	e.until(ctx, "flash", 0)
	wait(ctx, 3*time.Second)

	e.say("a rollout of the Deployment")
	e.deployment(ctx, "2")
	e.must(e.Await(ctx, "the rollout is through", time.Minute, func(context.Context) error {
		pods := e.living("web-")
		if len(pods) != 2 || slices.Contains(s.first, pods[0]) || slices.Contains(s.first, pods[1]) {
			return fmt.Errorf("there are %q", pods)
		}
		return nil
	}))
	s.second = e.living("web-")
	wait(ctx, 3*time.Second)

	e.pod(ctx, "stubborn", `"--ignore-term", "--for=10m"`)
	e.until(ctx, "stubborn", 1)
	wait(ctx, 4*time.Second)
	s.forced = e.say("a pod is deleted by force while the kubelet is away: its process lives on")
	e.stopKubelet(s)
	_, err := e.Kubectl(ctx, "delete", "pod", "stubborn", "--force", "--grace-period=0")
	e.must(err)
	wait(ctx, 3*time.Second)
	s.kubeletAway[1] = e.say("the kubelet starts again")
	e.must(e.StartKubelet(ctx))
	e.until(ctx, "stubborn", 0)
	e.offered(ctx, "4")
	wait(ctx, 4*time.Second)

	s.apiAway[0] = e.say("the API server goes away, the kubelet is restarted meanwhile")
	e.must(e.StopDaemon("kube-apiserver"))
	e.must(e.StopDaemon("kubelet"))
	wait(ctx, time.Second)
	e.must(e.StartKubelet(ctx))
	wait(ctx, 10*time.Second)
	s.apiAway[1] = e.say("the API server is back")
	e.must(e.StartAPIServer(ctx))
	e.offered(ctx, "4")
	wait(ctx, 4*time.Second)

	e.say("the device plugin starts again, with eight replicas of GPU B and none of A")
	e.must(e.StopDaemon("deviceplugin"))
	e.startPlugin("--ids="+gpuB, "--replicas=8")
	e.offered(ctx, "8")
	e.pod(ctx, "other", `"--exit-code=0"`)
	e.until(ctx, "other", 1)
	wait(ctx, 5*time.Second)

	e.say("everything is deleted")
	_, err = e.Kubectl(ctx, "delete", "deployment/web", "pod/other", "--wait=false")
	e.must(err)
	e.until(ctx, "web-", 0)
	e.until(ctx, "other", 0)
	wait(ctx, 10*time.Second)
	return s
}

func (e *episode) stopKubelet(s *story) {
	e.t.Helper()
	s.kubeletAway[0] = time.Now()
	e.must(e.StopDaemon("kubelet"))
}

// readSealed reads the ledger once all of [from, to) is visible.
func (e *episode) readSealed(ctx context.Context, from, to int64) *ledger {
	e.t.Helper()
	var l *ledger
	err := e.Await(ctx, "the ledger is complete", 30*time.Second, func(ctx context.Context) error {
		read, err := readLedger(ctx, e.project, from, to)
		if err == nil {
			l, err = read, read.conserved()
		}
		return err
	})
	if l == nil {
		e.t.Fatal(err)
	}
	if err != nil {
		e.t.Fatalf("no second may be lost or doubled: %v\n%s", err, l.table(e.notes))
	}
	return l
}

// check compares the ledger with the truth.
func (e *episode) check(l *ledger, s *story) {
	allocations, err := readAllocations(e.allocations())
	e.must(err)
	lives := e.all(time.Now())
	known := map[string]bool{"": true}
	for _, life := range lives {
		known[life.pod] = true
		at, err := allocated(allocations, life)
		e.must(err)
		e.checkLife(l, life, at)
		switch {
		case life.pod == "flash":
			s.flash = life
		case strings.HasPrefix(life.pod, "blink-"):
			s.blink = life
		case life.pod == "stubborn":
			s.forcedTo = life
		}
	}
	for _, pod := range l.pods() {
		if !known[pod] {
			e.t.Errorf("%s is billed, and never had a process", pod)
		}
	}
	// A sample credits whole percents, and a process that comes or goes is
	// credited a little late: that is the driver's error, and stays small.
	if nobodys, used := l.sum("", "unattributed"), l.used(); nobodys > used/100 {
		e.t.Errorf("%v of %v used is attributed to nobody", nobodys, used)
	}
	e.checkForced(l, s)
	e.checkOutages(l, s)
	e.checkReplicas(l, s)
}

// shares are what the driver's GPUs do for processes, in hundredths.
func share(pod string) int64 {
	for prefix, percent := range map[string]int64{"web-": 30, "blink-": 20, "flash": 40, "stubborn": 10, "other": 50} {
		if strings.HasPrefix(pod, prefix) {
			return percent
		}
	}
	return 0
}

// checkLife: a pod is billed from its allocation on until its process is gone
// and the kubelet knows, in every second between, and for what it used.
func (e *episode) checkLife(l *ledger, life life, allocated time.Time) {
	billed := l.billed(life.pod)
	if len(billed) == 0 {
		e.t.Errorf("%s held a device for %v and is not in the ledger", life.pod, life.lasted())
		return
	}
	begins, ends := time.Unix(billed[0], 0), time.Unix(billed[len(billed)-1]+1, 0)
	since := func(t time.Time) float64 { return t.Sub(time.Unix(l.from, 0)).Seconds() }
	e.t.Logf("%-24s allocated %5.1f  process %5.1f to %5.1f  billed in [%2.0f, %2.0f)  used %5.2f s of a GPU (true: %5.2f)", life.pod,
		since(allocated), since(life.start), since(life.end), since(begins), since(ends),
		l.sum(life.pod, "used").Seconds(), life.lasted().Seconds()*float64(share(life.pod))/100)
	if off := e.running(life.pod).Sub(life.start).Abs(); off > 2*time.Second {
		e.t.Errorf("%s: the witnesses are %v apart on when it began to run", life.pod, off)
	}
	if begins.Before(allocated.Truncate(time.Second)) {
		e.t.Errorf("%s is billed from %v on, before it was given anything at %v", life.pod, begins, allocated)
	}
	if begins.After(life.start.Add(late)) {
		e.t.Errorf("%s is billed from %v on, its process began at %v", life.pod, begins, life.start)
	}
	if ends.Before(life.end.Truncate(time.Second)) {
		e.t.Errorf("%s is billed until %v, its process ended at %v", life.pod, ends, life.end)
	}
	if ends.After(life.end.Add(lingers)) {
		e.t.Errorf("%s is billed until %v, gone since %v", life.pod, ends, life.end)
	}
	for second := begins.Unix(); second < life.end.Unix(); second++ {
		if !slices.Contains(billed, second) {
			e.t.Errorf("%s is not billed for second %d, in which its process had the device", life.pod, second-l.from)
		}
	}
	// What it used: within one window's worth, and what a percent's rounding makes.
	used := life.lasted() * time.Duration(share(life.pod)) / 100
	window := time.Second * time.Duration(share(life.pod)) / 100
	if off := (l.sum(life.pod, "used") - used).Abs(); off > window+used/50 {
		e.t.Errorf("%s used %v, the ledger has %v: more than a window apart", life.pod, used, l.sum(life.pod, "used"))
	}
}

// checkFacts: what is used is under the pods' teams and controllers, too.
func (e *episode) checkFacts(ctx context.Context, l *ledger) {
	for key, facts := range map[string]map[string]string{
		"team":       {"search": "web-", "batch": "blink-"},
		"controller": {"Deployment/web": "web-", "Job/blink": "blink-"},
	} {
		used, err := usedBy(ctx, e.project, key, l.from, l.to)
		e.must(err)
		for fact, prefix := range facts {
			var pods time.Duration
			for _, pod := range l.pods() {
				if strings.HasPrefix(pod, prefix) {
					pods += l.sum(pod, "used")
				}
			}
			if used[fact] != pods {
				e.t.Errorf("%s %s used %v, and its pods %v", key, fact, used[fact], pods)
			}
		}
	}
}

// checkForced: who was deleted by force is gone for the API server, and answers
// for what its process uses all the same, until that ends.
func (e *episode) checkForced(l *ledger, s *story) {
	gone := e.gone("stubborn")
	if gone.IsZero() || !s.forcedTo.end.After(gone.Add(time.Second)) {
		e.t.Fatalf("the process of the pod that was deleted by force at %v did not live on: it ended at %v", gone, s.forcedTo.end)
	}
	for second := gone.Unix() + 1; second < s.forcedTo.end.Unix(); second++ {
		if l.of(second, "stubborn")["used"] == 0 {
			e.t.Errorf("second %d: the process of the pod that was deleted by force uses the GPU, and the pod answers for nothing", second-l.from)
		}
	}
}

// checkOutages: nobody is released because the kubelet or the API server is
// away or starts again.
func (e *episode) checkOutages(l *ledger, s *story) {
	for what, away := range map[string][2]time.Time{"kubelet": s.kubeletAway, "API server": s.apiAway} {
		for second := away[0].Unix(); second < away[1].Unix()+5; second++ {
			for _, pod := range s.second {
				if b := l.of(second, pod); b["used"] == 0 || b["reserved"] == 0 {
					e.t.Errorf("second %d, %s away: %s has %v, and held and used its replica all the time", second-l.from, what, pod, b)
				}
			}
		}
	}
}

// checkReplicas: two replicas that do the same answer for the same, half of the
// idle rest included.
func (e *episode) checkReplicas(l *ledger, s *story) {
	for second := s.kubeletAway[0].Unix() - 3; second < s.kubeletAway[0].Unix()-1; second++ {
		a, b := l.of(second, s.second[0]), l.of(second, s.second[1])
		if off := time.Duration(a.sum() - b.sum()).Abs(); off > 10*time.Millisecond {
			e.t.Errorf("second %d: two equal replicas answer for %v and %v", second-l.from, a, b)
		}
	}
}

// flashTable shows what a pod of 1.5 s is billed here, and by who looks at the
// node every 15 or 60 s and bills what is there for as long.
func flashTable(l *ledger, flash life) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  lived                 %6.2f s\n", flash.lasted().Seconds())
	fmt.Fprintf(&b, "  used, this ledger     %6.2f s of a GPU, in %d windows (true: %.2f)\n",
		l.sum("flash", "used").Seconds(), len(l.billed("flash")), flash.lasted().Seconds()*0.4)
	for _, every := range []int64{15, 60} {
		var looks int64
		for at := (flash.start.Unix()/every + 1) * every; time.Unix(at, 0).Before(flash.end); at += every {
			looks++
		}
		fmt.Fprintf(&b, "  a scraper every %d s   %6.2f s: nothing in %.0f %% of all cases, %.2f s in the others\n",
			every, float64(looks*every)*0.4, 100*(1-flash.lasted().Seconds()/float64(every)), float64(every)*0.4)
	}
	return b.String()
}
