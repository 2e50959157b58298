package dcgm

/*
#cgo linux LDFLAGS: -ldl
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

// The reason is copied at once: the loader keeps it for the calling thread.
static void *open_library(const char *name, char *reason, size_t size) {
	void *library = dlopen(name, RTLD_LAZY | RTLD_GLOBAL | RTLD_NODELETE);
	const char *why = library ? NULL : dlerror();
	snprintf(reason, size, "%s", why ? why : "");
	return library;
}

static const char *error_string(void *function, int code) {
	return ((const char *(*)(int))function)(code);
}
*/
import "C"

import (
	"fmt"
	"maps"
	"unsafe"
)

const (
	libraryName = "libdcgm.so.4" // what go-dcgm opens
	// lowestStatus is beyond the codes of any DCGM so far.
	lowestStatus = -128
)

// symbols are the calls that a session makes by go-dcgm. One that the library
// lacks would end the process with "symbol lookup error" when it is made.
func symbols(embedded bool) []string {
	common := []string{
		"dcgmInit", "dcgmShutdown", "errorString",
		"dcgmGetAllSupportedDevices", "dcgmGetGpuInstanceHierarchy", "dcgmEntitiesGetLatestValues",
		"dcgmGroupCreate", "dcgmGroupAddEntity", "dcgmGroupDestroy", "dcgmFieldGroupCreate", "dcgmFieldGroupDestroy",
		"dcgmWatchFields", "dcgmUnwatchFields", "dcgmUpdateAllFields",
	}
	if embedded {
		return append(common, "dcgmStartEmbedded", "dcgmStopEmbedded")
	}
	return append(common, "dcgmConnect_v2", "dcgmDisconnect")
}

// load opens the library for good (calls that are bound once go to where it
// lay when they were), and looks the symbols up. It returns the texts that the
// library has for one code each, since go-dcgm passes on the text alone.
func load(needed []string) (texts map[string]status, err error) {
	name := C.CString(libraryName)
	defer C.free(unsafe.Pointer(name))
	reason := make([]byte, 512)
	library := C.open_library(name, (*C.char)(unsafe.Pointer(&reason[0])), C.size_t(len(reason)))
	if library == nil {
		return nil, fmt.Errorf("%w: %s", errMissing, C.GoString((*C.char)(unsafe.Pointer(&reason[0]))))
	}
	find := func(symbol string) unsafe.Pointer {
		c := C.CString(symbol)
		defer C.free(unsafe.Pointer(c))
		return C.dlsym(library, c)
	}
	for _, symbol := range needed {
		if find(symbol) == nil {
			return nil, fmt.Errorf("%w: %s has no %s; DCGM 4 is needed", errMissing, libraryName, symbol)
		}
	}
	function := find("errorString")
	texts = make(map[string]status)
	for s := status(lowestStatus); s < statusOK; s++ {
		text := C.error_string(function, C.int(s))
		if text == nil {
			continue
		}
		if _, taken := texts[C.GoString(text)]; taken { // "unknown error" or so
			texts[C.GoString(text)] = statusOK
		} else {
			texts[C.GoString(text)] = s
		}
	}
	maps.DeleteFunc(texts, func(_ string, s status) bool { return s == statusOK })
	return texts, nil
}
