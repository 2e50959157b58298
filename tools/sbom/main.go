// Command sbom writes a program's bill of materials, in CycloneDX's JSON, of
// what the linker wrote into it: what is in the program, not what a module file
// would allow.
//
//	sbom PROGRAM > PROGRAM.cdx.json
//
// The same program yields the same bytes.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"golang.org/x/mod/module"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %v\n", err)
		os.Exit(1)
	}
}

func write(w io.Writer, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	sum, err := sha256Of(program)
	if err != nil {
		return err
	}
	cache, err := modCache()
	if err != nil {
		return err
	}
	name := filepath.Base(program)
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: name, Type: cdx.ComponentTypeApplication, Name: name, Version: info.Main.Version,
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
		Licenses: licences("."),
	}}
	all := []cdx.Component{{
		BOMRef: "pkg:golang/std@" + info.GoVersion, Type: cdx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion,
		PackageURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go"), Licenses: licence("BSD-3-Clause"),
	}}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		all = append(all, component(d, cache))
		if c, ok := duckDB(d); ok {
			all = append(all, c)
		}
	}
	bom.Components = &all
	refs := make([]string, len(all))
	for i := range all {
		refs[i] = all[i].BOMRef
	}
	bom.Dependencies = &[]cdx.Dependency{{Ref: name, Dependencies: &refs}}
	return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// component is a module. Its checksum is Go's, of all of its files, which
// CycloneDX has no algorithm for.
func component(d *debug.Module, cache string) cdx.Component {
	c := cdx.Component{
		BOMRef: "pkg:golang/" + d.Path + "@" + d.Version, Type: cdx.ComponentTypeLibrary, Name: d.Path, Version: d.Version,
		PackageURL: "pkg:golang/" + d.Path + "@" + d.Version,
	}
	if d.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: d.Sum}}
	}
	path, err := module.EscapePath(d.Path)
	version, err2 := module.EscapeVersion(d.Version)
	if err == nil && err2 == nil {
		c.Licenses = licences(filepath.Join(cache, path+"@"+version))
	}
	return c
}

// duckDB is the library of C++ that a module of its binding brings, already
// compiled: v0.10505.0 is DuckDB 1.5.5.
func duckDB(d *debug.Module) (cdx.Component, bool) {
	if !strings.HasPrefix(d.Path, "github.com/duckdb/duckdb-go-bindings/lib/") {
		return cdx.Component{}, false
	}
	var n int
	if _, err := fmt.Sscanf(d.Version, "v0.%d.", &n); err != nil {
		return cdx.Component{}, false
	}
	version := fmt.Sprintf("%d.%d.%d", n/10_000, n/100%100, n%100)
	purl := "pkg:github/duckdb/duckdb@v" + version
	return cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: "duckdb", Version: version, PackageURL: purl, Licenses: licence("MIT"),
	}, true
}

func modCache() (string, error) {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func sha256Of(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}

func licence(id string) *cdx.Licenses {
	return &cdx.Licenses{{License: &cdx.License{ID: id}}}
}

// licences are what a folder's licence file says in well-known words; nil where
// it says something else, which somebody has to read.
func licences(dir string) *cdx.Licenses {
	files, err := filepath.Glob(filepath.Join(dir, "LICEN[CS]E*"))
	if err != nil {
		return nil
	}
	more, err := filepath.Glob(filepath.Join(dir, "COPYING*"))
	if err != nil {
		return nil
	}
	for _, f := range append(files, more...) {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if id := recognise(strings.Join(strings.Fields(string(text)), " ")); id != "" {
			return licence(id)
		}
	}
	return nil
}

func recognise(text string) string {
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("Apache License") && has("Version 2.0"):
		return "Apache-2.0"
	case has("Mozilla Public License") && has("2.0"):
		return "MPL-2.0"
	case has("Permission is hereby granted, free of charge, to any person obtaining a copy"):
		return "MIT"
	case has("Permission to use, copy, modify, and") && has("distribute this software for any purpose with or without fee"):
		return "ISC"
	case has("Redistribution and use in source and binary forms"):
		if has("endorse or promote products") {
			return "BSD-3-Clause"
		}
		return "BSD-2-Clause"
	}
	return ""
}
