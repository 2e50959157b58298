package kubelet

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
	"pgregory.net/rapid"
)

// world is a node as it is, and what of it can be known.
type world struct {
	up    bool
	epoch int
	pods  []*worldPod
	held  map[worldKey]*worldHolding
}

type worldPod struct {
	name, uid               string
	ids                     []string
	removed, lives, isKnown bool // isKnown: to the kubelet that runs
}

type worldKey struct{ device, name string }

type worldHolding struct {
	replicas int
	uid      string
	ids      []string
	epoch    int // in which it was listed
	missing  bool
}

func (w *world) listed() (out []*podresources.PodResources) {
	for _, p := range w.pods {
		if p.isKnown && !p.removed {
			out = append(out, has("ns", p.name, p.ids...))
		}
	}
	return out
}

// settle is what must be held when nothing has happened for a while.
func (w *world) settle() {
	there, users := map[worldKey]bool{}, map[string]string{}
	for _, p := range w.pods {
		if !w.up || !p.isKnown || p.removed {
			continue
		}
		now := map[worldKey]*worldHolding{}
		for _, id := range p.ids {
			users[id] = p.name
			k := worldKey{id[:len(gpu0)], p.name}
			if now[k] == nil {
				now[k] = &worldHolding{uid: p.uid, epoch: w.epoch}
			}
			now[k].replicas++
			now[k].ids = append(now[k].ids, id)
			there[k] = true
		}
		maps.Copy(w.held, now)
	}
	for k, h := range w.held {
		if w.up && !there[k] {
			if h.epoch == w.epoch {
				delete(w.held, k)
				continue
			}
			h.missing = true
			for _, id := range h.ids {
				if user, ok := users[id]; ok && user != k.name {
					delete(w.held, k)
				}
			}
		}
		if h.missing && !w.living()[h.uid] {
			delete(w.held, k)
		}
	}
}

func (w *world) living() map[string]bool {
	m := map[string]bool{}
	for _, p := range w.pods {
		if p.lives {
			m[p.uid] = true
		}
	}
	return m
}

func (w *world) text() (out []string) {
	for k, h := range w.held {
		out = append(out, fmt.Sprintf("%.5s ns/%s/main(%s) x%d", k.device, k.name, h.uid, h.replicas))
	}
	slices.Sort(out)
	return out
}

// act does one thing to the node, chosen by three numbers, and tells the rig.
func (w *world) act(r *rig, what, which, extra int) string {
	done := ""
	pick := func(ok func(*worldPod) bool) *worldPod {
		var ps []*worldPod
		for _, p := range w.pods {
			if ok(p) {
				ps = append(ps, p)
			}
		}
		if len(ps) == 0 {
			return nil
		}
		return ps[which%len(ps)]
	}
	switch what {
	case 0, 1, 2: // a new pod, of a name that is free
		p := &worldPod{name: fmt.Sprintf("p%d", which%4), uid: fmt.Sprintf("u%d", len(w.pods)), lives: true, isKnown: w.up}
		free := map[string]bool{}
		for i := range 8 {
			free[fmt.Sprintf("%s::%d", []string{gpu0, gpu1}[i%2], i/2)] = true
		}
		for _, x := range w.pods {
			if !x.removed && x.name == p.name {
				return "nothing"
			}
			for _, id := range x.ids {
				if !x.removed {
					delete(free, id)
				}
			}
		}
		ids := slices.Sorted(maps.Keys(free))
		p.ids = ids[:min(len(ids), 1+extra%3)]
		w.pods = append(w.pods, p)
		r.dir.Put(pod("ns", p.name, p.uid, "main"))
		done = fmt.Sprintf("new %s %s %v", p.name, p.uid, p.ids)
	case 3, 4: // a pod is removed; its process may live on
		if p := pick(func(p *worldPod) bool { return !p.removed }); p != nil {
			p.removed, p.lives = true, extra%2 == 0
			r.dir.Delete(p.uid)
			done = fmt.Sprintf("removed %s %s, lives %t", p.name, p.uid, p.lives)
		}
	case 5: // a process ends
		if p := pick(func(p *worldPod) bool { return p.lives }); p != nil {
			p.lives = false
			done = "ended " + p.uid
		}
	case 6: // the kubelet goes away
		w.up = false
		done = "kubelet away"
	case 7: // it starts, and knows some
		w.up = true
		w.epoch++
		for i, p := range w.pods {
			p.isKnown = (which>>(i%8))&1 == 1
		}
		r.kubelet.restart(w.listed()...)
		done = "kubelet starts"
	case 8: // it learns of all
		for _, p := range w.pods {
			p.isKnown = w.up
		}
		done = "kubelet knows all"
	case 9: // the agent starts again
		r.stop()
		for _, h := range w.held {
			h.epoch, h.ids, h.missing = 0, nil, false
		}
		r.set(func() { r.living = w.living() })
		r.run()
		done = "agent starts"
	}
	r.set(func() { r.living = w.living() })
	if w.up {
		r.kubelet.list(w.listed()...)
	} else {
		r.kubelet.fail(status.Error(codes.Unavailable, "away"))
	}
	return done
}

// Whatever pods, kubelet and agent do: after a while the holdings are those of
// the model, and none was stated or released that should not have been.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [3]int {
			return [3]int{rapid.IntRange(0, 9).Draw(rt, "what"), rapid.IntRange(0, 255).Draw(rt, "which"), rapid.IntRange(0, 5).Draw(rt, "extra")}
		}), 1, 25).Draw(rt, "steps")
		failure := ""
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			w := &world{up: true, epoch: 1, held: map[worldKey]*worldHolding{}}
			r.run()
			var story []string
			for _, s := range steps {
				story = append(story, w.act(r, s[0], s[1], s[2]))
				r.pass(13 * time.Second)
				w.settle()
				if got, want := r.now(), w.text(); !slices.Equal(got, want) || r.broken != nil {
					failure = fmt.Sprintf("after %s:\n got %q\nwant %q\nbroken: %v", strings.Join(story, "; "), got, want, r.broken)
					break
				}
				if got := sortedHoldings(slices.Collect(maps.Values(r.held))); len(got) != countHolders(r.w) {
					failure = fmt.Sprintf("after %s: holders are not those held", strings.Join(story, "; "))
					break
				}
			}
			r.stop()
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func countHolders(w *Watcher) (n int) {
	for _, os := range *w.current.Load() {
		n += len(os)
	}
	return n
}
