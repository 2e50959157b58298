package deploy_test

import (
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// published is what an instance costs an hour, all of it, and of that its
// machine where the cloud prices that apart. It says again what clouds.yaml
// is made of, so that a slip in either shows.
type published struct {
	instance, model string // the model as NVML names it
	gpus            int
	price, host     string
	capacity        string
}

var clouds = []published{
	{"g4dn.xlarge", "Tesla T4", 1, "0.526", "", "on-demand"},
	{"g4dn.2xlarge", "Tesla T4", 1, "0.752", "", "on-demand"},
	{"g4dn.4xlarge", "Tesla T4", 1, "1.204", "", "on-demand"},
	{"g4dn.8xlarge", "Tesla T4", 1, "2.176", "", "on-demand"},
	{"g4dn.12xlarge", "Tesla T4", 4, "3.912", "", "on-demand"},
	{"g4dn.16xlarge", "Tesla T4", 1, "4.352", "", "on-demand"},
	{"g4dn.metal", "Tesla T4", 8, "7.824", "", "on-demand"},
	{"g5.xlarge", "NVIDIA A10G", 1, "1.006", "", "on-demand"},
	{"g5.2xlarge", "NVIDIA A10G", 1, "1.212", "", "on-demand"},
	{"g5.4xlarge", "NVIDIA A10G", 1, "1.624", "", "on-demand"},
	{"g5.8xlarge", "NVIDIA A10G", 1, "2.448", "", "on-demand"},
	{"g5.12xlarge", "NVIDIA A10G", 4, "5.672", "", "on-demand"},
	{"g5.16xlarge", "NVIDIA A10G", 1, "4.096", "", "on-demand"},
	{"g5.24xlarge", "NVIDIA A10G", 4, "8.144", "", "on-demand"},
	{"g5.48xlarge", "NVIDIA A10G", 8, "16.288", "", "on-demand"},
	{"g6.xlarge", "NVIDIA L4", 1, "0.8048", "", "on-demand"},
	{"g6.2xlarge", "NVIDIA L4", 1, "0.9776", "", "on-demand"},
	{"g6.4xlarge", "NVIDIA L4", 1, "1.3232", "", "on-demand"},
	{"g6.8xlarge", "NVIDIA L4", 1, "2.0144", "", "on-demand"},
	{"g6.12xlarge", "NVIDIA L4", 4, "4.6016", "", "on-demand"},
	{"g6.16xlarge", "NVIDIA L4", 1, "3.3968", "", "on-demand"},
	{"g6.24xlarge", "NVIDIA L4", 4, "6.6752", "", "on-demand"},
	{"g6.48xlarge", "NVIDIA L4", 8, "13.3504", "", "on-demand"},
	{"g6e.xlarge", "NVIDIA L40S", 1, "1.861", "", "on-demand"},
	{"g6e.2xlarge", "NVIDIA L40S", 1, "2.24208", "", "on-demand"},
	{"g6e.4xlarge", "NVIDIA L40S", 1, "3.00424", "", "on-demand"},
	{"g6e.8xlarge", "NVIDIA L40S", 1, "4.52856", "", "on-demand"},
	{"g6e.12xlarge", "NVIDIA L40S", 4, "10.49264", "", "on-demand"},
	{"g6e.16xlarge", "NVIDIA L40S", 1, "7.57719", "", "on-demand"},
	{"g6e.24xlarge", "NVIDIA L40S", 4, "15.06559", "", "on-demand"},
	{"g6e.48xlarge", "NVIDIA L40S", 8, "30.13118", "", "on-demand"},
	{"p3.2xlarge", "Tesla V100-SXM2-16GB", 1, "3.06", "", "on-demand"},
	{"p3.8xlarge", "Tesla V100-SXM2-16GB", 4, "12.24", "", "on-demand"},
	{"p3.16xlarge", "Tesla V100-SXM2-16GB", 8, "24.48", "", "on-demand"},
	{"p3dn.24xlarge", "Tesla V100-SXM2-32GB", 8, "31.212", "", "on-demand"},
	{"p4d.24xlarge", "NVIDIA A100-SXM4-40GB", 8, "21.957642", "", "on-demand"},
	{"p4de.24xlarge", "NVIDIA A100-SXM4-80GB", 8, "27.44705", "", "on-demand"},
	{"p5.4xlarge", "NVIDIA H100 80GB HBM3", 1, "6.88", "", "on-demand"},
	{"p5.48xlarge", "NVIDIA H100 80GB HBM3", 8, "55.04", "", "on-demand"},
	{"p5en.48xlarge", "NVIDIA H200", 8, "63.296", "", "on-demand"},
	{"p6-b200.48xlarge", "NVIDIA B200", 8, "113.9328", "", "on-demand"},
	{"p6-b300.48xlarge", "NVIDIA B300 SXM6 AC", 8, "142.416", "", "on-demand"},
	{"a2-highgpu-1g", "NVIDIA A100-SXM4-40GB", 1, "3.67339", "0.73948", "on-demand"},
	{"a2-highgpu-2g", "NVIDIA A100-SXM4-40GB", 2, "7.34677", "1.47895", "on-demand"},
	{"a2-highgpu-4g", "NVIDIA A100-SXM4-40GB", 4, "14.69354", "2.95791", "on-demand"},
	{"a2-highgpu-8g", "NVIDIA A100-SXM4-40GB", 8, "29.38708", "5.91582", "on-demand"},
	{"a2-megagpu-16g", "NVIDIA A100-SXM4-40GB", 16, "55.73951", "8.79698", "on-demand"},
	{"a2-ultragpu-1g", "NVIDIA A100-SXM4-80GB", 1, "5.06879789041096", "1.09962", "on-demand"},
	{"a2-ultragpu-2g", "NVIDIA A100-SXM4-80GB", 2, "10.1375957808219", "2.19924", "on-demand"},
	{"a2-ultragpu-4g", "NVIDIA A100-SXM4-80GB", 4, "20.2751915616438", "4.39849", "on-demand"},
	{"a2-ultragpu-8g", "NVIDIA A100-SXM4-80GB", 8, "40.5503831232877", "8.79698", "on-demand"},
	{"a3-highgpu-8g", "NVIDIA H100 80GB HBM3", 8, "87.83247", "9.46006", "on-demand"},
	{"a3-megagpu-8g", "NVIDIA H100 80GB HBM3", 8, "92.21427", "9.46006", "on-demand"},
	{"a3-ultragpu-8g", "NVIDIA H200", 8, "83.492", "8.99808", "on-demand"},
	{"g2-standard-12", "NVIDIA L4", 1, "1.00042", "0.44038", "on-demand"},
	{"g2-standard-16", "NVIDIA L4", 1, "1.14721", "0.58717", "on-demand"},
	{"g2-standard-24", "NVIDIA L4", 2, "2.00083", "0.88075", "on-demand"},
	{"a3-highgpu-1g", "NVIDIA H100 80GB HBM3", 1, "6.571", "0.7078", "spot"},
	{"a3-ultragpu-8g", "NVIDIA H200", 8, "50.0856", "", "spot"},
	{"Standard_NC24ads_A100_v4", "NVIDIA A100 80GB PCIe", 1, "3.673", "", "on-demand"},
	{"Standard_NC48ads_A100_v4", "NVIDIA A100 80GB PCIe", 2, "9.554", "", "on-demand"},
	{"Standard_NC96ads_A100_v4", "NVIDIA A100 80GB PCIe", 4, "19.108", "", "on-demand"},
	{"Standard_NC40ads_H100_v5", "NVIDIA H100 NVL", 1, "6.98", "", "on-demand"},
	{"Standard_NC80adis_H100_v5", "NVIDIA H100 NVL", 2, "17.64", "", "on-demand"},
	{"Standard_ND96asr_v4", "NVIDIA A100-SXM4-40GB", 8, "27.197", "", "on-demand"},
	{"Standard_ND96isr_H100_v5", "NVIDIA H100 80GB HBM3", 8, "98.32", "", "on-demand"},
	{"Standard_ND96amsr_A100_v4", "NVIDIA A100-SXM4-80GB", 8, "32.77", "", "on-demand"},
	{"Standard_NC4as_T4_v3", "Tesla T4", 1, "0.526", "", "on-demand"},
	{"Standard_NC8as_T4_v3", "Tesla T4", 1, "0.752", "", "on-demand"},
	{"Standard_NC16as_T4_v3", "Tesla T4", 1, "1.204", "", "on-demand"},
	{"Standard_NC64as_T4_v3", "Tesla T4", 4, "4.352", "", "on-demand"},
}

// node is the GPUs of such an instance, with the labels that its cloud's
// Kubernetes gives it.
func (p *published) node() []attribution.Device {
	labels := map[string]string{"node.kubernetes.io/instance-type": p.instance, "kubernetes.io/os": "linux"}
	switch google := !strings.Contains(p.instance, "_") && strings.Contains(p.instance, "-") && !strings.Contains(p.instance, "."); {
	case google && p.capacity == "spot":
		labels["cloud.google.com/gke-provisioning"], labels["cloud.google.com/gke-spot"] = "spot", "true"
	case google:
		labels["cloud.google.com/gke-provisioning"] = "standard"
	}
	devices := make([]attribution.Device, p.gpus)
	for i := range devices {
		devices[i] = attribution.Device{
			ID: fmt.Sprintf("GPU-%02d", i), Model: p.model, CapacityType: p.capacity, Labels: attribution.MakeLabels(labels),
		}
	}
	return devices
}

func cloudCard(t *testing.T) *rating.Rater {
	t.Helper()
	text, err := os.ReadFile("examples/clouds.yaml")
	if err != nil {
		t.Fatal(err)
	}
	card, err := rating.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	card.Revision = 1
	r, err := rating.NewRater(card)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLaw1CloudInstancesCostWhatTheirCloudAsks sums the lines of an instance's
// GPUs. A share that has more than nine decimals is rounded down, so that each
// GPU may lack less than a nano unit, and never has more.
func TestLaw1CloudInstancesCostWhatTheirCloudAsks(t *testing.T) {
	r := cloudCard(t)
	for _, p := range clouds {
		var sum, host money.Amount
		for i, lines := range r.Lines(p.node(), 0) {
			if len(lines) == 0 {
				t.Fatalf("%s (%s): GPU %d has no price", p.instance, p.capacity, i)
			}
			for _, l := range lines {
				sum += l.PerHour
				if l.Name == "host" {
					host += l.PerHour
				}
			}
		}
		if want := nanos(t, p.price); sum > want || sum <= want-money.Amount(p.gpus) {
			t.Errorf("%s (%s): %d GPUs cost %s, but the instance %s", p.instance, p.capacity, p.gpus, sum, want)
		}
		if want := nanos(t, p.host); host != want {
			t.Errorf("%s (%s): the host costs %s, want %s", p.instance, p.capacity, host, want)
		}
	}
}

// nanos is an amount, rounded down to a nano unit; "" is 0.
func nanos(t *testing.T, s string) money.Amount {
	t.Helper()
	if s == "" {
		return 0
	}
	x, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is no amount", s)
	}
	x.Mul(x, big.NewRat(int64(money.Unit), 1))
	return money.Amount(new(big.Int).Quo(x.Num(), x.Denom()).Int64())
}

// TestEveryCloudRuleIsReached: each rule and each overhead is there for one
// instance of the list, and there is no other that a node could get instead.
func TestEveryCloudRuleIsReached(t *testing.T) {
	const key = "node.kubernetes.io/instance-type"
	listed, hosts := map[[2]string]bool{}, map[[2]string]bool{}
	for _, p := range clouds {
		at := [2]string{p.instance, p.capacity}
		if listed[at] {
			t.Errorf("%s is listed twice", at)
		}
		listed[at] = true
		if p.host != "" {
			hosts[at] = true
		}
	}
	card := cloudCard(t).Card()
	for _, rule := range card.Prices {
		instance, _ := rule.NodeLabels.Get(key)
		at := [2]string{instance, rule.CapacityType}
		if !listed[at] {
			t.Errorf("the rule for %q on %s is a second one, or for nothing that is listed", rule.Model, at)
		}
		delete(listed, at)
	}
	for _, o := range card.Overheads {
		instance, _ := o.NodeLabels.Get(key)
		at := [2]string{instance, "on-demand"}
		if _, spot := o.NodeLabels.Get("cloud.google.com/gke-spot"); spot {
			at[1] = "spot"
		}
		if !hosts[at] {
			t.Errorf("the overhead %q on %s is a second one, or for nothing that is listed", o.Name, at)
		}
		delete(hosts, at)
	}
	if len(listed)+len(hosts) > 0 {
		t.Errorf("nothing prices %v, nor the hosts of %v", listed, hosts)
	}
}

// TestLaw9WhatTheCloudCardDoesNotKnowHasNoPrice, rather than a wrong one.
func TestLaw9WhatTheCloudCardDoesNotKnowHasNoPrice(t *testing.T) {
	r := cloudCard(t)
	for name, p := range map[string]published{
		"another instance":      {"p5e.48xlarge", "NVIDIA H200", 8, "", "", "on-demand"},
		"another model":         {"p5.48xlarge", "NVIDIA H200", 8, "", "", "on-demand"},
		"spot without a price":  {"p5.48xlarge", "NVIDIA H100 80GB HBM3", 8, "", "", "spot"},
		"unknown how paid":      {"p5.48xlarge", "NVIDIA H100 80GB HBM3", 8, "", "", ""},
		"a machine but no GPUs": {"a2-highgpu-1g", "NVIDIA L4", 1, "", "", "on-demand"},
	} {
		devices := p.node()
		prices := make([]attribution.Price, len(devices))
		r.Prices(devices, 0, prices)
		for i := range prices {
			if prices[i].Known() {
				t.Errorf("%s: %+v", name, prices[i])
			}
		}
	}
}

// TestExampleCardsAreSound is for all of them.
func TestExampleCardsAreSound(t *testing.T) {
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rating.Parse(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
