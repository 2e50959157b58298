package pods_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
)

func pod(uid, name string, cs ...pods.Container) *pods.Pod {
	return &pods.Pod{Namespace: "ns", Name: name, UID: uid, Containers: cs}
}

func TestDirectoryFinds(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	if v := d.View(); v.Len() != 0 || v.ByUID("u") != nil || v.ByName("ns", "a") != nil {
		t.Fatal("an empty directory knows pods")
	}
	d.Put(&pods.Pod{
		Namespace: "ns", Name: "a", UID: "u", ControllerKind: "Deployment", Controller: "web",
		Labels:     attribution.MakeLabels(map[string]string{"team": "ml"}),
		Containers: []pods.Container{{Name: "main", ID: "1"}, {Name: "side"}},
	})
	v := d.View()
	p := v.ByUID("u")
	if p == nil || v.ByName("ns", "a") != p || v.ByName("other", "a") != nil {
		t.Fatalf("by UID %v, by name %v", p, v.ByName("ns", "a"))
	}
	if got, c := v.ByContainer("1"); got != p || c.Name != "main" {
		t.Errorf("ByContainer: %v, %v", got, c)
	}
	if got, c := v.ByContainer(""); got != nil || c != nil {
		t.Errorf("a container of no id: %v, %v", got, c)
	}
	want := attribution.Owner{
		Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: "a", PodUID: "u",
		Container: "side", ControllerKind: "Deployment", Controller: "web",
		Labels: attribution.MakeLabels(map[string]string{"team": "ml"}),
	}
	if o := p.Owner("side"); attribution.CompareOwners(o, &want) != 0 {
		t.Errorf("owner %+v, want %+v", o, want)
	}
	if p.Owner("none") != nil {
		t.Error("an owner of no container")
	}
}

// The pod that a caller keeps stays as it was, and has no owners.
func TestPutKeepsACopy(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	mine := pod("u", "a", pods.Container{Name: "main"})
	d.Put(mine)
	if mine.Owner("main") != nil || d.View().ByUID("u") == mine {
		t.Error("the caller's pod was taken")
	}
	before := d.View()
	d.Delete("u")
	if before.ByUID("u").Gone() || !d.View().ByUID("u").Gone() {
		t.Error("a view changed, or the pod did not go")
	}
	d.Put(d.View().ByUID("u")) // a gone one: it is there again
	if d.View().ByUID("u").Gone() {
		t.Error("the pod did not come back")
	}
}

func TestGonePodsResolve(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	d.Put(pod("old", "a", pods.Container{Name: "main", ID: "1"}))
	owner := d.View().ByUID("old").Owner("main")
	d.Delete("old", "unknown")
	v := d.View()
	if p, _ := v.ByContainer("1"); p == nil || !p.Gone() || p.Owner("main") != owner {
		t.Fatalf("the gone pod: %+v", p)
	}
	if v.ByName("ns", "a").UID != "old" {
		t.Error("its name is forgotten")
	}
	d.Put(pod("new", "a", pods.Container{Name: "main", ID: "2"}))
	if got := d.View().ByName("ns", "a").UID; got != "new" {
		t.Errorf("the name means %s", got)
	}
	d.Replace(nil)
	if got := d.View().ByName("ns", "a").UID; got != "new" {
		t.Errorf("of two gone ones the name means %s, want the last", got)
	}
}

func TestNameOfTwoThatAreThere(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	ended := pod("z", "web-0")
	ended.Terminal = true
	d.Put(ended, pod("b", "web-0"), pod("a", "web-0"))
	if got := d.View().ByName("ns", "web-0").UID; got != "b" {
		t.Errorf("the name means %s", got)
	}
}

func TestBounds(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	many := make([]*pods.Pod, pods.MaxPods+3)
	for i := range many {
		many[i] = pod(fmt.Sprint(i), fmt.Sprint("p", i))
	}
	d.Replace(many)
	if v := d.View(); v.Len() != pods.MaxPods || d.Refused() != 3 {
		t.Fatalf("%d pods, %d refused", v.Len(), d.Refused())
	}
	many[0].Terminal = true
	d.Put(many[0]) // news of one that is there are always taken
	if !d.View().ByUID("0").Terminal || d.Refused() != 3 {
		t.Error("news of a known pod were refused")
	}
	d.Put(pod("", "nameless"))
	if d.Refused() != 4 {
		t.Error("a pod without UID was taken")
	}
	d.Replace(nil)
	if got := d.View().Len(); got != pods.MaxGone {
		t.Errorf("%d gone pods are known", got)
	}
	d.Replace(many) // those that are gone make no room scarce
	there := 0
	d.View().All(func(p *pods.Pod) {
		if !p.Gone() {
			there++
		}
	})
	if there != pods.MaxPods {
		t.Errorf("%d pods are there", there)
	}
}

func TestChanged(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	changed := func() bool {
		select {
		case <-d.Changed():
			return true
		default:
			return false
		}
	}
	d.Put(pod("a", "a"))
	d.Put(pod("b", "b"))
	if !changed() || changed() {
		t.Error("two changes before one look are one")
	}
	d.Put(pod("a", "a"))
	d.Delete("none")
	d.Replace([]*pods.Pod{pod("a", "a"), pod("b", "b")})
	if changed() {
		t.Error("nothing has changed")
	}
	for i, change := range []func(p *pods.Pod){
		func(p *pods.Pod) { p.Labels = attribution.MakeLabels(map[string]string{"k": "v"}) },
		func(p *pods.Pod) { p.Terminal = true },
		func(p *pods.Pod) { p.HAMi = "x" },
		func(p *pods.Pod) { p.Containers = []pods.Container{{Name: "c"}} },
		func(p *pods.Pod) { p.ControllerKind, p.Controller = "Job", "j" },
	} {
		p := pod("a", "a")
		change(p)
		if d.Put(p); !changed() {
			t.Errorf("change %d was not told", i)
		}
	}
}

// An owner stays the same pointer while its facts are the same.
func TestOwnerIsKept(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	d.Put(pod("u", "a", pods.Container{Name: "main"}))
	o := d.View().ByUID("u").Owner("main")
	p := pod("u", "a", pods.Container{Name: "init", Init: true}, pods.Container{Name: "main", ID: "1", Ended: true})
	p.Terminal = true
	d.Put(p)
	if d.View().ByUID("u").Owner("main") != o {
		t.Error("another owner for the same facts")
	}
	d.Delete("u")
	d.Put(p)
	if d.View().ByUID("u").Owner("main") != o {
		t.Error("another owner after the pod came back")
	}
	p = pod("u", "a", pods.Container{Name: "main"})
	p.Labels = attribution.MakeLabels(map[string]string{"k": "v"})
	d.Put(p)
	if d.View().ByUID("u").Owner("main") == o {
		t.Error("the old owner for other facts")
	}
}

func TestManyGoroutines(t *testing.T) {
	d := pods.NewDirectory("c", "n")
	shared := pod("s", "shared", pods.Container{Name: "main"})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				d.Put(pod(fmt.Sprint(i%7), fmt.Sprint(g), pods.Container{Name: "main", ID: fmt.Sprint(i)}), shared)
				d.View().All(func(p *pods.Pod) { _ = p.Owner("main") })
				d.Delete(fmt.Sprint(i % 5))
			}
		})
	}
	wg.Wait()
	if d.View().ByUID("s") == nil {
		t.Error("the shared pod is lost")
	}
}

// dumb is a directory that is obviously right: a list of what was said.
type dumb struct {
	pods []dumbPod
	left int
}

type dumbPod struct {
	pods.Pod
	left int
}

func (m *dumb) index(uid string) int {
	return slices.IndexFunc(m.pods, func(p dumbPod) bool { return p.UID == uid })
}

func (m *dumb) put(p pods.Pod) {
	if i := m.index(p.UID); i >= 0 {
		m.pods = slices.Delete(m.pods, i, i+1)
	}
	m.pods = append(m.pods, dumbPod{Pod: p})
}

func (m *dumb) delete(uid string) {
	if i := m.index(uid); i >= 0 && m.pods[i].left == 0 {
		m.left++
		m.pods[i].left = m.left
	}
}

// byName looks at every pair of pods.
func (m *dumb) byName(name string) string {
	best := ""
	for _, p := range m.pods {
		beaten := slices.ContainsFunc(m.pods, func(q dumbPod) bool {
			switch {
			case q.Name != name:
				return false
			case q.left == 0 && p.left == 0:
				return (p.Terminal && !q.Terminal) || (p.Terminal == q.Terminal && q.UID > p.UID)
			case q.left != 0 && p.left != 0:
				return q.left > p.left
			}
			return q.left == 0
		})
		if p.Name == name && !beaten {
			best = p.UID
		}
	}
	return best
}

func TestDirectoryAgainstDumbModel(t *testing.T) {
	aPod := rapid.Custom(func(t *rapid.T) pods.Pod {
		uid := rapid.SampledFrom([]string{"1", "2", "3", "4", "5", "6"}).Draw(t, "uid")
		p := pods.Pod{
			Namespace: "ns", UID: uid, Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"),
			Terminal: rapid.Bool().Draw(t, "terminal"),
		}
		if id := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "id"); id != "" {
			id = uid + id
			p.Containers = []pods.Container{{Name: "main", ID: id}}
		}
		return p
	})
	uids := rapid.SliceOfN(rapid.SampledFrom([]string{"1", "2", "3", "4", "5", "6", "9"}), 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		d, m := pods.NewDirectory("c", "n"), &dumb{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for _, p := range rapid.SliceOfN(aPod, 1, 3).Draw(t, "pods") {
					d.Put(&p)
					m.put(p)
				}
			},
			"delete": func(t *rapid.T) {
				us := uids.Draw(t, "uids")
				d.Delete(us...)
				for _, u := range us {
					m.delete(u)
				}
			},
			"replace": func(t *rapid.T) {
				ps := rapid.SliceOfNDistinct(aPod, 0, 4, func(p pods.Pod) string { return p.UID }).Draw(t, "pods")
				given := make([]*pods.Pod, len(ps))
				for i := range ps {
					given[i] = &ps[i]
				}
				replace(d, m, given)
			},
			"": func(t *rapid.T) { compare(t, d.View(), m) },
		})
	})
}

// replace says it to both: pods that go at once go in the order of their UIDs.
func replace(d *pods.Directory, m *dumb, given []*pods.Pod) {
	d.Replace(given)
	for _, uid := range []string{"1", "2", "3", "4", "5", "6"} {
		if !slices.ContainsFunc(given, func(g *pods.Pod) bool { return g.UID == uid }) {
			m.delete(uid)
		}
	}
	for _, g := range given {
		m.put(*g)
	}
}

func compare(t *rapid.T, v *pods.View, m *dumb) {
	if v.Len() != len(m.pods) {
		t.Fatalf("%d pods, want %d", v.Len(), len(m.pods))
	}
	for _, want := range m.pods {
		got := v.ByUID(want.UID)
		switch {
		case got == nil:
			t.Fatalf("pod %s is unknown", want.UID)
		case got.Gone() != (want.left != 0) || got.Name != want.Name || got.Terminal != want.Terminal:
			t.Fatalf("pod %+v, want %+v", got, want)
		}
		for i, c := range want.Containers {
			p, gc := v.ByContainer(c.ID)
			if p != got || gc != &got.Containers[i] {
				t.Fatalf("container %s: %v", c.ID, gc)
			}
			if o := got.Owner(c.Name); o.Pod != want.Name || o.PodUID != want.UID || o.Container != c.Name {
				t.Fatalf("owner %+v", o)
			}
		}
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		got := ""
		if p := v.ByName("ns", name); p != nil {
			got = p.UID
		}
		if want := m.byName(name); got != want {
			t.Fatalf("the name %s means %q, want %q", name, got, want)
		}
	}
}
