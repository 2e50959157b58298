package query

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// Device is a device with its sums over the range of the question. Where its
// facts changed (another capacity type, other labels), the newest are shown.
type Device struct {
	Device      attribution.Device
	First, Last attribution.Second // of its stored or open time in the range, to the minute; Last exclusive
	Sum         Sum
	Used        big.Int           // ns
	Price       attribution.Price // where the request prices
}

// DevicesRequest asks for the devices seen in a range.
type DevicesRequest struct {
	From, To attribution.Second // 0 and 0: everything
	Filters  []string           // by cluster, node, device, device-model
	// Prices prices the devices of one node; nil: nobody does. It is given all
	// that pass the filters, the asker's or not: a node's overheads are shared
	// by its devices.
	Prices func(node []attribution.Device, out []attribution.Price)
}

type deviceKey struct{ cluster, node, id string }

// Devices lists the devices seen in a range, by cluster, node, model and id. Who
// may not see everything is told of the devices that what he may see ran on.
func (e *Engine) Devices(ctx context.Context, req *DevicesRequest) ([]Device, error) {
	filters, err := ParseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	for _, f := range filters {
		if !f.Dimension.OfDevice() {
			return nil, Invalid("devices have no %s: filter them by cluster, node, device or device-model", f.Dimension)
		}
	}
	seen, mine := map[deviceKey]*Device{}, map[deviceKey]bool{}
	all := false
	err = e.Snapshot(ctx, req.From, req.To, func(ctx context.Context, s *Snapshot) error {
		all = s.scope.All()
		if s.Empty() {
			return nil
		}
		if err := s.devices(ctx, filters, seen); err != nil {
			return err
		}
		rows, err := s.Query(ctx, &store.Query{
			From: s.From, To: s.To, Filters: filters,
			GroupBy: []store.Dimension{store.Cluster, store.Node, store.DeviceID},
		})
		if err != nil {
			return e.Explain(ctx, err, s, 0)
		}
		for i := range rows {
			r := &rows[i]
			k := deviceKey{r.Keys[0].Value, r.Keys[1].Value, r.Keys[2].Value}
			d := seen[k]
			mine[k] = true
			if d == nil {
				return fmt.Errorf("device %s of node %q has time in the range, but is not listed: %w", r.Keys[2].Value, r.Keys[1].Value, store.ErrCorrupt)
			}
			d.Sum.addRow(r)
			if r.Basis == attribution.Used {
				add(&d.Used, &r.DeviceTime)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Device, 0, len(seen))
	for _, d := range seen {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Device) int {
		return cmp.Or(cmp.Compare(a.Device.Cluster, b.Device.Cluster), cmp.Compare(a.Device.Node, b.Device.Node),
			cmp.Compare(a.Device.Model, b.Device.Model), cmp.Compare(a.Device.ID, b.Device.ID))
	})
	if req.Prices != nil {
		price(out, req.Prices)
	}
	if !all {
		out = slices.DeleteFunc(out, func(d Device) bool { return !mine[deviceKey{d.Device.Cluster, d.Device.Node, d.Device.ID}] })
	}
	if len(out) > MaxRows { // of the asker's own: how many there are is not for him
		return nil, tooMany(len(out))
	}
	return out, nil
}

// price prices devices, which come in order of (cluster, node), node by node.
func price(ds []Device, prices func([]attribution.Device, []attribution.Price)) {
	for i := 0; i < len(ds); {
		var node []attribution.Device
		begin := i
		for ; i < len(ds) && ds[i].Device.Cluster == ds[begin].Device.Cluster && ds[i].Device.Node == ds[begin].Device.Node; i++ {
			node = append(node, ds[i].Device)
		}
		out := make([]attribution.Price, len(node))
		prices(node, out)
		for j := range out {
			ds[begin+j].Price = out[j]
		}
	}
}

func (s *Snapshot) devices(ctx context.Context, fs []store.Filter, seen map[deviceKey]*Device) error {
	note := func(d *attribution.Device, first, last attribution.Second) {
		k := deviceKey{d.Cluster, d.Node, d.ID}
		x := seen[k]
		if x == nil {
			seen[k] = &Device{Device: *d, First: first, Last: last}
			return
		}
		if last > x.Last || last == x.Last && attribution.CompareDevices(d, &x.Device) > 0 {
			x.Device = *d
		}
		x.First, x.Last = min(x.First, first), max(x.Last, last)
	}
	stored, err := s.reader.Devices(ctx, s.From, s.To, fs)
	if err != nil {
		return err
	}
	for i := range stored {
		note(&stored[i].Device, stored[i].First, stored[i].Last)
	}
	for _, c := range s.open {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to := spanOf(c)
		for i, r := 0, c.Roster(); i < len(r.Devices); i++ {
			if d := &r.Devices[i]; deviceMatches(d, fs) {
				note(d, from, to)
			}
		}
	}
	return nil
}

func deviceMatches(d *attribution.Device, fs []store.Filter) bool {
	for i := range fs {
		if !fs[i].Match(scan.DeviceKey(fs[i].Dimension, d)) {
			return false
		}
	}
	return true
}
