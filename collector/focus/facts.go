package focus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// The node labels that say where a device is.
const (
	regionLabel = "topology.kubernetes.io/region"
	zoneLabel   = "topology.kubernetes.io/zone"
)

// Prefixes of AllocatedTags' keys: ours are generated, pods' are the users'
// second set of tags beside the nodes' in Tags.
const (
	ourPrefix = "gpuledger/"
	podPrefix = "pod/"
)

// origin says everything of a charge but its split.
func (b *period) origin(ctx context.Context, c *charge, cost, elapsed *big.Int) (*origin, error) {
	node := b.nodes[c.nodeKey]
	at := slices.IndexFunc(node, func(d attribution.Device) bool { return d.ID == c.device && d.Model == c.model })
	o := &origin{names: &b.x.names, from: b.from, to: b.to, month: month(b.from)}
	if at >= 0 {
		o.device = node[at]
	} else {
		o.device = attribution.Device{ID: c.device, Cluster: c.cluster, Node: c.node, Model: c.model}
	}
	var sure bool
	var err error
	if o.unitPrice, sure, err = b.x.prices.find(ctx, c.revision, node, at, b.from, b.to, cost, elapsed); err != nil {
		return nil, err
	}
	o.priceSource = fromCard
	b.origins++
	if !sure {
		o.priceSource = fromAverage
		b.averaged++
	}
	if b.x.by != nil {
		o.originID = originID(c, b.from)
	}
	if n := decimalOf(int64(c.revision&^reratedBit), 0); c.revision&reratedBit != 0 {
		o.rerating = &n
	} else {
		o.revision = &n
	}
	o.describe()
	return o, nil
}

// originID tells a charge from all others of any period. The model is in it
// because a driver may give a device another name within a day.
func originID(c *charge, from attribution.Second) string {
	parts := []string{c.cluster, c.node, c.device, c.model}
	for i := range parts {
		parts[i] = strings.NewReplacer("%", "%25", "/", "%2F").Replace(parts[i])
	}
	return strings.Join(append(parts,
		time.Unix(int64(from), 0).UTC().Format("20060102T150405Z"), strconv.FormatUint(uint64(c.revision), 10)), "/")
}

// describe fills in what follows from the device's facts.
func (o *origin) describe() {
	d := &o.device
	o.region, _ = d.Labels.Get(regionLabel)
	o.zone, _ = d.Labels.Get(zoneLabel)
	if len(d.Labels) > 0 {
		o.tags = object(d.Labels.Map())
	}
	o.resourceType, o.resourceName = "GPU", d.Model
	sku := []string{cmp.Or(strings.TrimSpace(d.Model), "GPU")}
	details := map[string]any{}
	if d.Model != "" {
		details["x_GpuModel"] = d.Model
	}
	switch {
	case d.Profile != "" || d.Parent != "":
		o.resourceType, o.resourceName = "MIG instance", d.Model+" "+d.Profile
		sku = append(sku, "mig-"+d.Profile)
		details["x_MigProfile"] = d.Profile
	case d.Remainder:
		o.resourceType, o.resourceName = "GPU remainder", d.Model+" rest"
		sku = append(sku, "mig-rest")
		details["x_MigRest"] = true
	default:
		details["GpuCount"] = 1
		if d.MemoryBytes > 0 {
			details["x_GpuMemoryBytes"] = d.MemoryBytes
		}
	}
	if d.CapacityType != "" {
		sku = append(sku, d.CapacityType)
		details["x_CapacityType"] = d.CapacityType
	}
	o.sku, o.skuDetails = strings.Join(sku, "/"), object(details)
	o.resourceName = strings.TrimSpace(o.resourceName) + " on " + d.Node
	o.pricing = "Standard"
	o.description = strings.TrimSpace(strings.TrimSpace(d.Model+" "+d.Profile) + " GPU time")
	if d.CapacityType != "" {
		o.description += ", " + d.CapacityType
	}
	if d.CapacityType == "spot" {
		o.pricing = "Dynamic"
	}
}

// own says whose an allocated charge is. Where none of the dimensions has a
// value it is nobody's, and FOCUS wants null.
func (r *Row) own(keys []store.Key, by []store.Dimension) {
	var ids, names []string
	tags := map[string]string{}
	for i, k := range keys {
		if k.Missing {
			continue
		}
		ids = append(ids, string(by[i])+"="+escapeID(k.Value))
		names = append(names, k.Value)
		tag := ourPrefix + string(by[i])
		if label, ok := by[i].Label(); ok {
			tag = podPrefix + label
		}
		if _, ok := r.device.Labels.Get(tag); !ok { // Tags has it: must not be repeated
			tags[tag] = k.Value
		}
	}
	if len(ids) == 0 {
		return
	}
	r.ownerID = strings.Join(ids, ",")
	if r.ownerName = strings.Join(names, " / "); strings.TrimSpace(r.ownerName) == "" {
		r.ownerName = r.ownerID
	}
	if len(tags) > 0 {
		r.ownerTags = object(tags)
	}
}

// escapeID keeps ids of different owners different: it tells a comma in a value
// from one between dimensions.
func escapeID(s string) string { return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s) }

// object is a JSON object, its keys in order.
func object(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("BUG: focus: a map of text can't be written as JSON: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
