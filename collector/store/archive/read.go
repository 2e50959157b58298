package archive

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// ErrDamaged is wrapped by errors that say where a file is not what was
// written: it was cut off, or altered.
var ErrDamaged = errors.New("the backup is damaged")

// ErrNoBackup says that a file is none, or one of a version that this program
// does not know.
var ErrNoBackup = errors.New("this is no backup that this program can read")

// What is read at once at most. A block of partBytes has one thing too many, and
// the largest is an owner with all labels that there may be.
const (
	maxPlain  = 64 << 20
	maxPacked = 64 << 20
)

// Info is what a file says of itself.
type Info struct {
	Program string    // version of the program that wrote it
	Made    time.Time // when the ledger was read
	Blocks  int64
	Bytes   int64
	SHA256  []byte   // of the file up to its trailer
	Holds   *Summary // as it was read
	marks   store.Marks
}

// Check reads a whole file and says what it holds, or where it is damaged. It
// reads no more than the frames: [Restore] finds out whether they make sense.
// report may be nil.
func Check(ctx context.Context, in io.Reader, report func(Progress) error) (*Info, error) {
	return read(ctx, in, "checking", report, nil)
}

// read reads a file from its beginning to its end. part, if not nil, gets the
// blocks, and info as far as it is known by then.
func read(ctx context.Context, in io.Reader, what string, report func(Progress) error, part func(*store.Part) error) (*Info, error) {
	unzip, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPlain))
	if err != nil {
		return nil, err
	}
	defer unzip.Close()
	f := &fileReader{in: bufio.NewReaderSize(in, 256<<10), hash: sha256.New(), unzip: unzip}
	if err := f.begin(); err != nil {
		return nil, err
	}
	info := &Info{}
	for ended := false; !ended; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before := f.hash.Sum(nil)
		kind, err := f.next()
		if err != nil {
			return nil, err
		}
		switch {
		case (kind == frameHeader) != (f.place == 1):
			return nil, f.damaged("it does not begin with its header")
		case kind == frameHeader:
			err = f.header(info)
		case kind == frameBlock:
			info.Blocks++
			err = f.block(part)
		case kind == frameTrailer:
			ended, err = true, f.trailer(info, before)
		default:
			err = f.damaged("a frame of unknown kind %q", kind)
		}
		if err == nil && report != nil {
			err = report(Progress{What: what, Bytes: f.size, Parts: info.Blocks})
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := f.in.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, f.damaged("something follows its end")
	}
	info.Bytes = f.size
	return info, nil
}

// fileReader reads frames.
type fileReader struct {
	in            *bufio.Reader
	hash          hash.Hash // of all so far
	unzip         *zstd.Decoder
	size          int64 // read so far
	at            int64 // where the frame begins
	place         uint64
	packed, plain []byte
}

// damaged says what is wrong with the frame that was read last, and where.
func (f *fileReader) damaged(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d, in frame %d: %s", ErrDamaged, f.at, f.place, fmt.Sprintf(format, args...))
}

// begin reads what the file is.
func (f *fileReader) begin() error {
	line, err := f.in.Peek(len(magic))
	if err == nil && string(line) == magic {
		f.hash.Write(line)
		f.size = int64(len(magic))
		_, err = f.in.Discard(len(magic))
		return err
	}
	name, _, _ := strings.Cut(magic, "1\n")
	rest, ok := bytes.CutPrefix(line, []byte(name))
	version, _, whole := bytes.Cut(rest, []byte("\n"))
	switch {
	case len(line) < len(magic) && strings.HasPrefix(magic, string(line)):
		return fmt.Errorf("%w: it ends after %d bytes", ErrDamaged, len(line))
	case !ok:
		return fmt.Errorf("%w: it does not begin like one", ErrNoBackup)
	case !whole:
		version = append(version, "…"...)
	}
	return fmt.Errorf("%w: its format has version %q and this program knows 1: use the program that wrote it, or a newer one", ErrNoBackup, version)
}

// next reads a frame into f.plain.
func (f *fileReader) next() (kind byte, err error) {
	f.at = f.size
	f.place++
	var head [headSize]byte
	if err := f.fill(head[:]); err != nil {
		return 0, err
	}
	n, kind, sum := binary.BigEndian.Uint32(head[:4]), head[4], binary.BigEndian.Uint32(head[5:])
	if n > maxPacked {
		return 0, f.damaged("its length cannot be %d", n)
	}
	// What is not there is not allocated for.
	packed := bytes.NewBuffer(f.packed[:0])
	got, err := io.CopyN(packed, f.in, int64(n))
	f.packed = packed.Bytes()
	f.hash.Write(f.packed)
	f.size += got
	if err != nil {
		return 0, f.short(err)
	}
	if checksum(f.place-1, kind, f.packed) != sum {
		return 0, f.damaged("its checksum is wrong: the file was altered")
	}
	if f.plain, err = f.unzip.DecodeAll(f.packed, f.plain[:0]); err != nil {
		return 0, f.damaged("it cannot be unpacked: %v", err)
	}
	return kind, nil
}

func (f *fileReader) fill(b []byte) error {
	n, err := io.ReadFull(f.in, b)
	f.hash.Write(b[:n])
	f.size += int64(n)
	if err != nil {
		return f.short(err)
	}
	return nil
}

// short is the error of a file that ends too early, or cannot be read.
func (f *fileReader) short(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read the backup: %w", err)
	}
	return fmt.Errorf("%w: it ends after %d bytes without its trailer: it was cut off", ErrDamaged, f.size)
}

func (f *fileReader) header(info *Info) error {
	var m pb.BackupHeader
	if err := proto.Unmarshal(f.plain, &m); err != nil {
		return f.damaged("its header cannot be read: %v", err)
	}
	info.Program, info.Made = m.GetProgram(), time.Unix(0, m.GetMadeNs()).UTC()
	info.marks = store.Marks{
		At: info.Made, Rolled: make(map[rollup.Resolution]attribution.Second), Kept: make(map[rollup.Resolution]attribution.Second),
	}
	for _, r := range rolledMarks {
		info.marks.Rolled[r] = attribution.Second(m.GetRolled()[int64(r)])
	}
	for _, r := range keptMarks {
		info.marks.Kept[r] = attribution.Second(m.GetKept()[int64(r)])
	}
	return nil
}

func (f *fileReader) block(part func(*store.Part) error) error {
	if part == nil {
		return nil
	}
	var m pb.BackupBlock
	if err := proto.Unmarshal(f.plain, &m); err != nil {
		return f.damaged("its block cannot be read: %v", err)
	}
	p, err := decodeBlock(&m)
	if err != nil {
		return f.damaged("its block makes no sense: %v", err)
	}
	if err := part(p); err != nil {
		return fmt.Errorf("load frame %d: %w", f.place, err)
	}
	return nil
}

func (f *fileReader) trailer(info *Info, before []byte) error {
	var m pb.BackupTrailer
	if err := proto.Unmarshal(f.plain, &m); err != nil {
		return f.damaged("its trailer cannot be read: %v", err)
	}
	if !bytes.Equal(m.GetSha256(), before) || int64(m.GetBlocks()) != info.Blocks {
		return f.damaged("its trailer tells %d blocks with SHA-256 %x, and there are %d with %x", m.GetBlocks(), m.GetSha256(), info.Blocks, before)
	}
	info.SHA256 = before
	var err error
	info.Holds, err = decodeSummary(m.GetSums())
	return err
}
