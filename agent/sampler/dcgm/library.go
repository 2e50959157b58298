package dcgm

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/NVIDIA/go-dcgm/pkg/dcgm"
)

const (
	uuidField  = dcgm.Short(54)
	unknownID  = math.MaxUint32 // DCGM's −1
	blankAbove = 1 << 47        // doubles from here on stand for "no value"
	// batch is how many values are read at once: go-dcgm keeps its buffers up
	// to 256, and a value takes 4 KiB.
	batch = 256
	// keepAge bounds what the hostengine remembers for us.
	keepAge, keepSamples = 10, 2
)

// endpoint is where a hostengine is.
type endpoint struct {
	embedded bool
	address  string
	unix     bool
}

// hostengineAt reads an address.
func hostengineAt(address string) (endpoint, error) {
	if address == "" {
		address = defaultHostengine
	}
	bad := func(why string) (endpoint, error) {
		return endpoint{}, fmt.Errorf("dcgm: hostengine %q: %s (host, host:port or unix:///path)", address, why)
	}
	switch {
	case len(address) > 255 || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return bad("longer than 255 bytes, or with spaces")
	case strings.HasPrefix(address, "/"):
		return endpoint{address: address, unix: true}, nil
	case !strings.Contains(address, "://"):
		return endpoint{address: address}, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "unix" || u.Host != "" || u.Path == "" {
		return bad("not understood")
	}
	return endpoint{address: u.Path, unix: true}, nil
}

// library is a hostengine by go-dcgm, which knows one for the whole process.
type library struct {
	at     endpoint
	texts  map[string]status // by what the library says; nil until it is loaded
	serial int
	fields []dcgm.Short
	own    dcgm.FieldHandle
	groups []dcgm.GroupHandle // watched, one for each GPU
	pairs  []dcgm.GroupEntityPair
}

func newLibrary(at endpoint) *library { return &library{at: at} }

// try makes a call. The binding indexes arrays by counts that the library
// returns, so what panics is an answer that makes no sense.
func (l *library) try(name string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: DCGM's answer makes no sense: %v", name, r)
		}
	}()
	err = call()
	if err == nil {
		return nil
	}
	if coded, ok := errors.AsType[*dcgm.Error](err); ok {
		return failure(name, status(coded.Code))
	}
	// Most calls return text, which ends in what the library says of the code.
	text, longest := err.Error(), ""
	for end := range l.texts {
		if len(end) > len(longest) && strings.HasSuffix(text, end) {
			longest = end
		}
	}
	if s, ok := l.texts[longest]; ok {
		return failure(name, s)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func (l *library) open() error {
	if l.texts == nil {
		texts, err := load(symbols(l.at.embedded))
		if err != nil {
			return err
		}
		l.texts = texts
	}
	if l.at.embedded {
		return l.try("starting a hostengine", func() error {
			_, err := dcgm.Init(dcgm.Embedded)
			return err
		})
	}
	unix := "0"
	if l.at.unix {
		unix = "1"
	}
	return l.try("connecting to "+l.at.address, func() error {
		_, err := dcgm.Init(dcgm.Standalone, l.at.address, unix)
		return err
	})
}

func (l *library) close() error {
	l.unwatch()
	return l.try("closing", dcgm.Shutdown)
}

func (l *library) survey() ([]entity, error) {
	var ids []uint
	err := l.try("dcgmGetAllSupportedDevices", func() (err error) {
		ids, err = dcgm.GetSupportedDevices()
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, failure("listing GPUs", statusGPUUnsupported)
	}
	var h dcgm.MigHierarchy_v2
	err = l.try("dcgmGetGpuInstanceHierarchy", func() (err error) {
		h, err = dcgm.GetGPUInstanceHierarchy()
		return err
	})
	if err != nil {
		return nil, err
	}
	instances := h.EntityList[:h.Count]
	entities, err := l.identify(ids, instances)
	if err != nil {
		return nil, err
	}
	return appendInstances(entities, instances), nil
}

// identify finds the UUIDs of GPUs: live from the driver, since they are not
// watched. Those of GPUs that are cut are in the hierarchy as well.
func (l *library) identify(ids []uint, instances []dcgm.MigHierarchyInfo_v2) ([]entity, error) {
	pairs := make([]dcgm.GroupEntityPair, len(ids))
	for i, id := range ids {
		pairs[i] = dcgm.GroupEntityPair{EntityGroupId: dcgm.FE_GPU, EntityId: id}
	}
	var values []dcgm.FieldValue_v2
	err := l.try("asking for UUIDs", func() (err error) {
		values, err = dcgm.EntitiesGetLatestValues(pairs, []dcgm.Short{uuidField}, dcgm.DCGM_FV_FLAG_LIVE_DATA)
		return err
	})
	if errors.Is(err, statusDisconnected) {
		return nil, err
	}
	uuids := make(map[uint]string, len(ids))
	for i := range instances {
		if parent, uuid := instances[i].Parent, instances[i].Info.GpuUuid; parent.EntityGroupId == dcgm.FE_GPU && isUUID(uuid) {
			uuids[parent.EntityId] = uuid
		}
	}
	for i := range values {
		v := &values[i]
		switch {
		case v.Status != int(statusOK):
			err = failure("asking for UUIDs", status(v.Status))
		case v.EntityGroupId == dcgm.FE_GPU && v.StringValue != nil && isUUID(*v.StringValue):
			uuids[v.EntityID] = *v.StringValue
		}
	}
	if len(uuids) == 0 {
		return nil, cmp.Or(err, failure("asking for UUIDs", statusNoData))
	}
	entities := make([]entity, 0, len(ids))
	for _, id := range ids {
		if uuid, ok := uuids[id]; ok {
			entities = append(entities, entity{gpu, id, Reading{GPU: uuid, GPUInstance: -1, ComputeInstance: -1}})
		}
	}
	return entities, nil
}

// appendInstances appends the GPU instances, and the compute instances of those
// that have several: a single one is as busy as its GPU instance.
func appendInstances(dst []entity, list []dcgm.MigHierarchyInfo_v2) []entity {
	siblings := make(map[dcgm.GroupEntityPair]int)
	for i := range list {
		if list[i].Entity.EntityGroupId == dcgm.FE_GPU_CI {
			siblings[list[i].Parent]++
		}
	}
	for i := range list {
		e, info := list[i].Entity, &list[i].Info
		of := Reading{GPU: info.GpuUuid, GPUInstance: int(info.NvmlInstanceId), ComputeInstance: -1}
		if !isUUID(of.GPU) || info.NvmlInstanceId >= maxInstance {
			continue
		}
		switch {
		case e.EntityGroupId == dcgm.FE_GPU_I:
			dst = append(dst, entity{gpuInstance, e.EntityId, of})
		case e.EntityGroupId == dcgm.FE_GPU_CI && siblings[list[i].Parent] > 1 && info.NvmlComputeInstanceId < maxInstance:
			of.ComputeInstance = int(info.NvmlComputeInstanceId)
			dst = append(dst, entity{computeInstance, e.EntityId, of})
		}
	}
	return dst
}

// groupOf is DCGM's word for a kind.
func groupOf(k kind) dcgm.Field_Entity_Group {
	switch k {
	case gpu:
		return dcgm.FE_GPU
	case gpuInstance:
		return dcgm.FE_GPU_I
	case computeInstance:
		return dcgm.FE_GPU_CI
	}
	panic("BUG: dcgm: no such kind of entity: " + strconv.Itoa(int(k)))
}

// watch makes a group of each GPU and its instances, so that one that can't be
// profiled costs no other.
func (l *library) watch(entities []entity, fields []Field) (refused, err error) {
	l.unwatch()
	l.fields = l.fields[:0]
	for _, f := range fields {
		l.fields = append(l.fields, dcgm.Short(f))
	}
	err = l.try("dcgmFieldGroupCreate", func() (err error) {
		l.own, err = dcgm.FieldGroupCreate(l.name(), l.fields)
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []string
	byGPU := make(map[string][]dcgm.GroupEntityPair)
	for _, e := range entities {
		if _, known := byGPU[e.of.GPU]; !known {
			order = append(order, e.of.GPU)
		}
		byGPU[e.of.GPU] = append(byGPU[e.of.GPU], dcgm.GroupEntityPair{EntityGroupId: groupOf(e.kind), EntityId: e.id})
	}
	for _, uuid := range order {
		if err := l.watchGPU(byGPU[uuid]); err != nil {
			if errors.Is(err, statusDisconnected) {
				return nil, err
			}
			refused = fmt.Errorf("%s: %w", uuid, err)
		}
	}
	if len(l.groups) == 0 {
		return nil, refused
	}
	return refused, nil
}

func (l *library) watchGPU(pairs []dcgm.GroupEntityPair) error {
	var group dcgm.GroupHandle
	err := l.try("dcgmGroupCreate", func() (err error) {
		group, err = dcgm.CreateGroup(l.name())
		return err
	})
	if err != nil {
		return err
	}
	err = l.try("dcgmWatchFields", func() error {
		for _, p := range pairs {
			if err := dcgm.AddEntityToGroup(group, p.EntityGroupId, p.EntityId); err != nil {
				return err
			}
		}
		return dcgm.WatchFieldsWithGroupEx(l.own, group, readEvery.Microseconds(), keepAge, keepSamples)
	})
	if err != nil {
		_ = l.try("dcgmGroupDestroy", func() error { return dcgm.DestroyGroup(group) }) // the first error tells more
		return err
	}
	l.groups = append(l.groups, group)
	l.pairs = append(l.pairs, pairs...)
	return nil
}

// name is a name that no other client of the hostengine has, nor this one had.
func (l *library) name() string {
	l.serial++
	return fmt.Sprintf("gpuledger-%d-%x-%d", os.Getpid(), time.Now().UnixNano(), l.serial)
}

// unwatch drops what is watched. Errors mean that the hostengine has forgotten
// it already; it forgets everything when the session ends.
func (l *library) unwatch() {
	for _, group := range l.groups {
		_ = l.try("dcgmUnwatchFields", func() error { return dcgm.UnwatchFields(l.own, group) })
		_ = l.try("dcgmGroupDestroy", func() error { return dcgm.DestroyGroup(group) })
	}
	if l.own.GetHandle() != 0 {
		_ = l.try("dcgmFieldGroupDestroy", func() error { return dcgm.FieldGroupDestroy(l.own) })
	}
	l.own, l.groups, l.pairs = dcgm.FieldHandle{}, l.groups[:0], l.pairs[:0]
}

func (l *library) read(dst []value) ([]value, error) {
	most := batch / len(l.fields)
	for from := 0; from < len(l.pairs); from += most {
		some := l.pairs[from:min(from+most, len(l.pairs))]
		var values []dcgm.FieldValue_v2
		err := l.try("dcgmEntitiesGetLatestValues", func() (err error) {
			values, err = dcgm.EntitiesGetLatestValues(some, l.fields, 0)
			return err
		})
		if err != nil {
			return dst, err
		}
		for i := range values {
			dst = append(dst, valueOf(&values[i]))
		}
	}
	return dst, nil
}

// valueOf takes a value with what it stands for.
func valueOf(v *dcgm.FieldValue_v2) value {
	out := value{id: v.EntityID, field: Field(v.FieldID), status: status(v.Status)}
	switch v.EntityGroupId { //nolint:exhaustive // nothing else was asked for
	case dcgm.FE_GPU:
		out.kind = gpu
	case dcgm.FE_GPU_I:
		out.kind = gpuInstance
	case dcgm.FE_GPU_CI:
		out.kind = computeInstance
	}
	if out.status != statusOK {
		return out
	}
	if v.FieldType != dcgm.DCGM_FT_DOUBLE || v.TS <= 0 || v.TS > math.MaxInt64/1000 {
		out.status = statusNoData
		return out
	}
	out.share, out.at = v.Float64(), v.TS*1000
	if out.share >= blankAbove && !math.IsInf(out.share, 0) {
		switch out.share - blankAbove {
		case 2:
			out.status = statusNotSupported
		case 3:
			out.status = statusNoPermission
		default:
			out.status = statusNoData
		}
	}
	return out
}
