package dcgm

import (
	"errors"
	"fmt"
	"strconv"
)

// status is a DCGM_ST code. All but statusOK are errors.
type status int

const (
	statusOK             status = 0
	statusNotSupported   status = -6
	statusNVML           status = -8
	statusTimeout        status = -11
	statusVersion        status = -12
	statusNoData         status = -14
	statusStale          status = -15
	statusNotWatched     status = -16
	statusNoPermission   status = -17
	statusLost           status = -18
	statusDisconnected   status = -21
	statusGPUUnsupported status = -22
	statusIncompatible   status = -23
	statusRequiresRoot   status = -29
	statusNotLoaded      status = -33
	statusInUse          status = -34
	statusNoProfiling    status = -36
	statusProfiling      status = -37
	statusMultiPass      status = -38
	statusPaused         status = -54
	statusNVMLNotLoaded  status = -56
	statusDetached       status = -67
)

func (s status) text() string {
	switch s {
	case statusOK:
		return "no error"
	case statusNotSupported:
		return "not supported"
	case statusNVML:
		return "NVML fails within DCGM"
	case statusTimeout:
		return "timed out"
	case statusVersion:
		return "library and hostengine are of different versions"
	case statusNoData:
		return "no data"
	case statusStale:
		return "the values are old"
	case statusNotWatched:
		return "not watched"
	case statusNoPermission:
		return "no permission"
	case statusLost:
		return "the GPU is lost"
	case statusDisconnected:
		return "no connection to the hostengine"
	case statusGPUUnsupported:
		return "the GPU is not supported by DCGM"
	case statusIncompatible:
		return "the GPUs of a group are of different kinds"
	case statusRequiresRoot:
		return "the hostengine must run as root"
	case statusNotLoaded:
		return "a module of DCGM is not loaded"
	case statusInUse:
		return "in use by another"
	case statusNoProfiling:
		return "the GPU has no profiling"
	case statusProfiling:
		return "the profiling module fails"
	case statusMultiPass:
		return "these fields can't be measured together"
	case statusPaused:
		return "the hostengine is paused"
	case statusNVMLNotLoaded:
		return "DCGM has not found NVML"
	case statusDetached:
		return "the GPUs are detached"
	}
	return ""
}

// Error names the code without asking the library, which may be what is broken.
func (s status) Error() string {
	code := "DCGM_ST " + strconv.Itoa(int(s))
	if text := s.text(); text != "" {
		return text + " (" + code + ")"
	}
	return code
}

// failure is a call that returned a code.
func failure(call string, s status) error { return fmt.Errorf("%s: %w", call, s) }

// state is what is the same about two failures that need saying once.
func state(err error) string {
	if s, ok := errors.AsType[status](err); ok {
		return strconv.Itoa(int(s))
	}
	return err.Error()
}

// hint says what an operator may do about a failure.
func hint(err error) string {
	s, ok := errors.AsType[status](err)
	if !ok {
		return "see the hostengine's log"
	}
	switch s { //nolint:exhaustive // the others need no other hint
	case statusDisconnected, statusTimeout:
		return "is nv-hostengine running, and listening on this address?"
	case statusInUse, statusProfiling:
		return "another process owns the profiling counters (a dcgm-exporter, Nsight, a second hostengine): use its hostengine (mode standalone) or its page (mode exporter)"
	case statusNoPermission, statusRequiresRoot:
		return "profiling needs root and CAP_SYS_ADMIN for the hostengine, or the driver's NVreg_RestrictProfilingToAdminUsers=0"
	case statusNotLoaded:
		return "install DCGM's profiling module (datacenter-gpu-manager-4-proprietary) and see `dcgmi modules -l`; it needs root"
	case statusNotSupported, statusGPUUnsupported, statusNoProfiling, statusIncompatible:
		return "profiling needs a data-centre GPU of Volta or newer; set the mode to off"
	case statusMultiPass:
		return "ask for fewer extra fields"
	case statusVersion:
		return "the agent's libdcgm.so.4 and nv-hostengine have to be of one major version"
	case statusNVML, statusNVMLNotLoaded, statusLost, statusDetached, statusPaused:
		return "the driver, a GPU or the hostengine is not ready; it is tried again"
	case statusNoData, statusStale, statusNotWatched:
		return "the hostengine measures nothing: does another process own the profiling counters, or is a GPU hung?"
	}
	return "see the hostengine's log"
}
