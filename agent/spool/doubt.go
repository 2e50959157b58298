package spool

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/gpuledger/gpuledger/attribution"
)

// A spool that was damaged has forgotten chunks, and can't tell whether they
// were sent before. If they were, the collector has their seconds, in chunks that
// may have begun and ended elsewhere, with other content and other links. What
// is sealed of the same seconds now must neither be refused together with
// seconds that the collector has not, nor be what later chunks are chained to.
// A file tells of that until it is over, since it may take several starts.

// InDoubt reports whether a second may have been in a chunk that the log has
// lost. Such a second should be a chunk of its own, and what follows it begins
// the chain anew.
func (s *Spool) InDoubt(second attribution.Second) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged && (s.sound == 0 || second < s.sound)
}

// Sound says that no second from this one on was ever in the log. Without it
// every second of a log that was damaged is in doubt. It reports whether any is.
// Once a chunk that begins at this second or later is durable, none is any more.
func (s *Spool) Sound(from attribution.Second) (damaged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sound = max(s.sound, from)
	return s.damaged
}

// noteDamage is called before damage is repaired, and gone. A damaged write that
// was the last is not told from one that was torn. Chunks that can be made again
// become what they were.
func (s *Spool) noteDamage() error {
	if s.damaged || s.o.Repeatable {
		return nil
	}
	f, err := s.fsys.Create(filepath.Join(s.dir, damagedFile))
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if f != nil {
		err = f.Close()
	}
	if err == nil {
		err = s.fsys.SyncDir(s.dir)
	}
	s.damaged = err == nil
	return err
}

// mended notes that a chunk is durable. It is called with mu held.
func (s *Spool) mended(chunk attribution.Second) {
	if !s.damaged || s.sound == 0 || chunk < s.sound {
		return
	}
	err := s.fsys.Remove(filepath.Join(s.dir, damagedFile))
	if err == nil {
		_ = s.fsys.SyncDir(s.dir) // a crash may undo it: then it is done again
	}
	s.damaged = err != nil && !errors.Is(err, fs.ErrNotExist)
}
