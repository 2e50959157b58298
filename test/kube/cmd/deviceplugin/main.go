// Command deviceplugin is a device plugin without devices. It behaves as
// NVIDIA's does where a node can see it: ids are NVML UUIDs, or UUID::replica
// with time slicing, and a container learns its devices from
// NVIDIA_VISIBLE_DEVICES. What it allocates, and when, it writes down: one
// line of JSON for each container.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func main() {
	dir := flag.String("dir", api.DevicePluginPath, "folder of the kubelet's sockets")
	resource := flag.String("resource", "nvidia.com/gpu", "resource name")
	ids := flag.String("ids", "", "devices, with commas between them")
	replicas := flag.Int("replicas", 0, "time-sliced replicas of each device; 0: the devices themselves")
	record := flag.String("record", "", "file to which allocations are appended")
	flag.Parse()
	out, err := os.OpenFile(*record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "deviceplugin:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := &plugin{dir: *dir, resource: *resource, devices: devices(strings.Split(*ids, ","), *replicas), record: out}
	p.run(ctx)
}

func devices(ids []string, replicas int) []*api.Device {
	var all []*api.Device
	for _, id := range ids {
		if replicas == 0 {
			all = append(all, &api.Device{ID: id, Health: api.Healthy})
		}
		for n := range replicas {
			all = append(all, &api.Device{ID: id + "::" + strconv.Itoa(n), Health: api.Healthy})
		}
	}
	return all
}

// plugin serves one resource.
type plugin struct {
	api.UnimplementedDevicePluginServer
	dir, resource string
	devices       []*api.Device

	mu     sync.Mutex
	record *os.File
}

// run serves, and registers anew whenever the kubelet has made its sockets
// anew, until ctx ends.
func (p *plugin) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.serve(ctx); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "deviceplugin:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *plugin) serve(ctx context.Context) error {
	kubelet := filepath.Join(p.dir, "kubelet.sock")
	was, err := identity(kubelet)
	if err != nil {
		return err
	}
	name := strings.NewReplacer("/", "_", ".", "-").Replace(p.resource) + ".sock"
	own := filepath.Join(p.dir, name)
	if err := os.Remove(own); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", own)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	err = p.register(ctx, kubelet, name)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for err == nil {
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-done:
			return err
		case <-tick.C:
			if now, e := identity(kubelet); e != nil || now != was {
				err = errors.New("the kubelet has started anew")
			}
		}
	}
	server.Stop()
	if ended := <-done; ctx.Err() == nil {
		return errors.Join(err, ended)
	}
	return nil
}

// identity tells one socket from another of the same name.
func identity(path string) (string, error) {
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return fmt.Sprint(s.Ino, s.Ctim), nil
}

func (p *plugin) register(ctx context.Context, kubelet, name string) error {
	conn, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: name, ResourceName: p.resource}
	if _, err = api.NewRegistrationClient(conn).Register(ctx, request); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return nil
}

// GetDevicePluginOptions has no wishes.
func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells the devices, which never change while the plugin runs.
func (p *plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// allocation is one line of the record.
type allocation struct {
	UnixNano int64    `json:"unix_nano"`
	IDs      []string `json:"ids"`
}

// Allocate tells a container its devices, and writes that down.
func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	response := &api.AllocateResponse{}
	for _, c := range request.ContainerRequests {
		var uuids []string
		for _, id := range c.DevicesIds {
			if uuid, _, _ := strings.Cut(id, "::"); !slices.Contains(uuids, uuid) {
				uuids = append(uuids, uuid)
			}
		}
		response.ContainerResponses = append(response.ContainerResponses, &api.ContainerAllocateResponse{Envs: map[string]string{
			"NVIDIA_VISIBLE_DEVICES": strings.Join(uuids, ","), "GPULEDGER_DEVICE_IDS": strings.Join(c.DevicesIds, ","),
		}})
		if err := p.write(allocation{time.Now().UnixNano(), c.DevicesIds}); err != nil {
			return nil, err
		}
	}
	return response, nil
}

func (p *plugin) write(a allocation) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.record.Write(append(b, '\n'))
	return err
}

// PreStartContainer is never asked for.
func (p *plugin) PreStartContainer(context.Context, *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	return &api.PreStartContainerResponse{}, nil
}
