package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
)

// Image is a container image of one layer, made from files of this machine.
type Image struct {
	Name       string   // repository:tag
	Entrypoint []string // the first is a path in the image
	Env        []string
	// Files are those of the image by path, and where each is read from. The
	// shared libraries that they are linked with come along, from where the
	// machine has them.
	Files map[string]string
}

// pauseImage is what every pod's sandbox is made of.
const pauseImage = "kube.test/pause:1"

// libraryDirs is where the dynamic linker looks.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// Write writes the image as an archive that container runtimes import.
func (i Image) Write(file string) error {
	files := maps.Clone(i.Files)
	for _, from := range i.Files {
		if err := addLibraries(files, from); err != nil {
			return err
		}
	}
	layer, err := os.CreateTemp(filepath.Dir(file), "layer")
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(layer.Close(), os.Remove(layer.Name())) }()
	hash := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, hash), files); err != nil {
		return err
	}
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": map[string]any{"Entrypoint": i.Entrypoint, "Env": append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}, i.Env...)},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(hash.Sum(nil))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	t := tar.NewWriter(out)
	err = errors.Join(writeEntry(t, "manifest.json", bytes.NewReader(manifest), int64(len(manifest))), writeEntry(t, "config.json", bytes.NewReader(config), int64(len(config))))
	if err == nil {
		err = addFile(t, "layer.tar", layer.Name())
	}
	return errors.Join(err, t.Close(), out.Close())
}

// writeLayer writes files with the folders above them, in order.
func writeLayer(w io.Writer, files map[string]string) error {
	t := tar.NewWriter(w)
	made := map[string]bool{"/": true, ".": true}
	folder := func(dir string) error {
		var missing []string
		for d := path.Clean(dir); !made[d]; d = path.Dir(d) {
			made[d], missing = true, append(missing, d)
		}
		for _, d := range slices.Backward(missing) {
			if err := t.WriteHeader(&tar.Header{Name: d[1:] + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
		}
		return nil
	}
	users := []byte("root:x:0:0:root:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n")
	err := errors.Join(folder("/proc"), folder("/sys"), folder("/dev"), folder("/tmp"), folder("/etc"),
		writeEntry(t, "etc/passwd", bytes.NewReader(users), int64(len(users))))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err == nil {
			err = errors.Join(folder(path.Dir(name)), addFile(t, name[1:], files[name]))
		}
	}
	return errors.Join(err, t.Close())
}

func addFile(t *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return writeEntry(t, name, f, info.Size())
}

func writeEntry(t *tar.Writer, name string, r io.Reader, size int64) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}

// addLibraries adds what an ELF file is linked with, and what that is. Other
// files are linked with nothing.
func addLibraries(files map[string]string, name string) error {
	f, err := elf.Open(name)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	needed, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return err
		}
		linker := string(bytes.TrimRight(b, "\x00"))
		files[linker] = linker
	}
	for _, lib := range needed {
		if err := addLibrary(files, lib); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func addLibrary(files map[string]string, lib string) error {
	for _, dir := range libraryDirs {
		name := filepath.Join(dir, lib)
		if files[name] != "" {
			return nil
		}
		if _, err := os.Stat(name); err == nil {
			files[name] = name
			return addLibraries(files, name)
		}
	}
	return fmt.Errorf("the library %s is not found", lib)
}
