package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// SetRateCard keeps a rate card, durably, in place of the one before it.
func (s *Spool) SetRateCard(card []byte) error {
	b := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(card, castagnoli()))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := replace(s.fsys, filepath.Join(s.dir, cardFile), append(b, card...)); err != nil {
		return fmt.Errorf("spool: keep the rate card: %w", err)
	}
	return nil
}

// RateCard is the card last kept, nil where there is none. A damaged one is
// set aside, and counts as none.
func (s *Spool) RateCard() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := filepath.Join(s.dir, cardFile)
	b, err := readAll(s.fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("spool: rate card: %w", err)
	case len(b) >= 4 && crc32.Checksum(b[4:], castagnoli()) == binary.LittleEndian.Uint32(b):
		return b[4:], nil
	}
	s.stats.CorruptFiles++
	s.o.Logger.Error("spool: the rate card is damaged and set aside; prices are unknown until the collector sends it", "file", name)
	if err := s.fsys.Rename(name, name+corruptSuffix); err != nil {
		return nil, fmt.Errorf("spool: rate card: %w", err)
	}
	return nil, nil
}

// boundAside removes the oldest set-aside files of a folder, those that which
// names, while they are larger together than the limit.
func (s *Spool) boundAside(dir string, which func(name string) bool) {
	names, err := s.fsys.ReadDir(dir)
	if err != nil {
		return // the next time will do
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !which(n) })
	slices.SortFunc(names, byAge)
	var total int64
	sizes := make([]int64, len(names))
	for i, n := range names {
		if f, err := s.fsys.Open(filepath.Join(dir, n)); err == nil {
			sizes[i], _ = f.Size() // unknown counts as nothing
			_ = f.Close()
		}
		total += sizes[i]
	}
	for i := 0; total > s.o.AsideBytes && i < len(names); i++ {
		if s.fsys.Remove(filepath.Join(dir, names[i])) == nil {
			s.stats.AsideRemoved++
		}
		total -= sizes[i]
	}
}

// byAge orders the names of set-aside files by the number that they begin
// with: a segment's, or a chunk's sequence.
func byAge(a, b string) int {
	digits := func(s string) string {
		d, _, _ := strings.Cut(s, ".")
		return strings.TrimLeft(d, "0")
	}
	da, db := digits(a), digits(b)
	if len(da) != len(db) {
		return len(da) - len(db)
	}
	return strings.Compare(a, b)
}
