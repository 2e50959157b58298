package process

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/gpuledger/gpuledger/agent/sampler"
)

// maxStat bounds what is read of a /proc/PID/stat: 52 numbers and a name.
const maxStat = 2048

// exitingFlag is PF_EXITING of the kernel's sched.h, in field 9.
const exitingFlag = 0x4

// stat is what /proc/PID/stat tells.
type stat struct {
	sampler.Identity
	exiting bool // the process is on its way out, or a zombie
}

// parseStat takes the command (field 2, in parentheses that it may itself
// contain), the flags (field 9) and the start time (field 22) out of
// /proc/PID/stat.
func parseStat(b []byte) (stat, bool) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return stat{}, false
	}
	var flags, ticks uint64
	rest := b[to+1:]
	for field := 3; ; field++ {
		rest = bytes.TrimLeft(rest, " \n")
		value := rest
		if i := bytes.IndexAny(rest, " \n"); i >= 0 {
			value, rest = rest[:i], rest[i:]
		} else {
			rest = nil
		}
		if len(value) == 0 {
			return stat{}, false
		}
		var err error
		switch field {
		case 9:
			flags, err = strconv.ParseUint(string(value), 10, 64)
		case 22:
			ticks, err = strconv.ParseUint(string(value), 10, 64)
		}
		if err != nil {
			return stat{}, false
		}
		if field == 22 {
			break
		}
	}
	return stat{
		Identity: sampler.Identity{Start: ticks, Command: readable(b[from+1 : to])},
		exiting:  flags&exitingFlag != 0,
	}, true
}

// readable is a command as text. A process names itself, in any bytes; what is
// not UTF-8 can't travel, and would take its node's chunk with it.
func readable(command []byte) string {
	return strings.ToValidUTF8(string(command), string(utf8.RuneError))
}
