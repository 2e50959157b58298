package focus_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/focus"
)

// A file says of devices and prices what is known of them, and null where
// nothing is.
func TestFacts(t *testing.T) {
	labels := attribution.MakeLabels(map[string]string{"topology.kubernetes.io/region": "eu-1", "topology.kubernetes.io/zone": "eu-1a", "pod/app": "taken"})
	r := &attribution.Roster{
		Methods: []string{"sm/device"},
		Devices: []attribution.Device{
			{ID: "GPU-1", Node: "n", Model: "NVIDIA H100", Remainder: true, Labels: labels},
			{ID: "GPU-2", Node: "n", Model: "NVIDIA L4", CapacityType: "spot", MemoryBytes: 24 << 30, Sensors: attribution.SensorEnergy},
			{ID: "MIG-1", Node: "n", Model: "NVIDIA H100", Parent: "GPU-1", Profile: "1g.10gb", Share: attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8}, Labels: labels},
		},
		Owners: []attribution.Owner{{Kind: attribution.Container, Node: "n", Namespace: "a,b", Pod: "p", PodUID: "1", Container: "c", Labels: attribution.Labels{{Key: "app", Value: ""}}}},
	}
	card := &rating.Card{Revision: 1, Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: 7_200 * money.Unit}}}
	rater, err := rating.NewRater(card)
	if err != nil {
		t.Fatal(err)
	}
	prices := make([]attribution.Price, 3)
	rater.Prices(r.Devices, start, prices)
	const rerated = 1<<31 | 4
	prices[1].Revision = rerated
	var ws []attribution.DeviceWindow
	for d := range r.Devices {
		ws = append(ws, attribution.DeviceWindow{
			Device: uint32(d), Second: start, Price: prices[d], Energy: r.Devices[d].MemoryBytes / (24 << 30) * 1_500_000,
			Slices: []attribution.Slice{{Basis: attribution.Reserved, Time: attribution.WindowNanos}},
		})
	}
	c := attribution.BuildChunk(attribution.ChunkKey{Node: "n", Sequence: start}, 1, r.Facts(), ws, nil)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	file, _, _ := export(t, engine(c), cards{1: card, rerated: card}, &focus.Request{AllocateBy: []string{"namespace", "label:app"}})
	var got []string
	for _, row := range table(t, file) {
		var cells []string
		for _, name := range []string{
			"ResourceId", "ResourceName", "ResourceType", "RegionId", "AvailabilityZone", "SkuId", "SkuPriceDetails", "PricingCategory", "SubAccountId",
			"AllocatedResourceId", "AllocatedResourceName", "AllocatedTags", "x_EnergyJoules", "x_PriceRevision", "x_ReratingId", "ListUnitPrice", "x_UsedSeconds",
		} {
			cells = append(cells, row[name])
		}
		got = append(got, strings.Join(cells, "|"))
	}
	owner := `namespace=a\,b,label:app=|a,b / |`
	want := []string{
		`GPU-1|NVIDIA H100 rest on n|GPU remainder|eu-1|eu-1a|NVIDIA H100/mig-rest|{"x_GpuModel":"NVIDIA H100","x_MigRest":true}|Standard||` + owner +
			fmt.Sprintf(`{"gpuledger/namespace":"a,b"}||1||%s|`, plain(prices[0].PerHour)),
		`GPU-2|NVIDIA L4 on n|GPU|||NVIDIA L4/spot|{"GpuCount":1,"x_CapacityType":"spot","x_GpuMemoryBytes":25769803776,"x_GpuModel":"NVIDIA L4"}|Dynamic||` + owner +
			`{"gpuledger/namespace":"a,b","pod/app":""}|1.5||4|7200|`,
		`MIG-1|NVIDIA H100 1g.10gb on n|MIG instance|eu-1|eu-1a|NVIDIA H100/mig-1g.10gb|{"x_GpuModel":"NVIDIA H100","x_MigProfile":"1g.10gb"}|Standard||` + owner +
			fmt.Sprintf(`{"gpuledger/namespace":"a,b"}||1||%s|`, plain(prices[2].PerHour)),
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}

// plain is an amount as FOCUS writes it.
func plain(a money.Amount) string {
	return strings.TrimSuffix(strings.TrimRight(a.String(), "0"), ".")
}
