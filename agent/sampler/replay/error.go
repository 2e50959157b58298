package replay

import "fmt"

// Error says what is wrong with a recording, where, and what to do about it.
type Error struct {
	File string
	Line int // from 1
	What string
	Hint string
	Err  error // the cause, where there is one beside What
}

// Error names the file and the line first.
func (e *Error) Error() string {
	s := fmt.Sprintf("recording %s line %d: %s", e.File, e.Line, e.What)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// fault is an Error that does not know yet where it is.
type fault struct{ what, hint string }

func (f *fault) Error() string { return f.what + " (" + f.hint + ")" }

func faultf(hint, format string, args ...any) *fault {
	return &fault{fmt.Sprintf(format, args...), hint}
}
