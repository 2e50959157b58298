// Package replay reads and writes recordings: everything that was seen of some
// nodes in a stretch of time, as one file that can be played again.
//
// A recording is JSON Lines, optionally in gzip. It begins with a header and
// the nodes, ends with a line that counts the lines before it, and in between
// says in order of time what a [sampler.Script] yields. docs/recording.md is
// the description for users; the rules are these:
//
//  1. Numbers are integers or plain decimals, parsed exactly. There are no
//     negative numbers, exponents or floats.
//  2. Time never goes back, and everything lies within the header's stretch.
//  3. What is referred to has been declared: nodes, then owners and devices. A
//     device is used only while it exists.
//  4. Counters never fall, and SM activity never outruns the clock, except
//     across a gap.
//  5. Two samples of a device are at most max_interval_s apart, except across
//     a gap. A tally covers no more than that either. So a player that reads
//     that far ahead knows everything about the time it has reached.
//  6. A line says all it must and nothing else: unknown keys, missing keys and
//     readings of sensors that the device has not are errors.
//
// A recording is hostile until proven otherwise. [Check] proves it without
// playing it, so that a bad one changes nothing; [Reader] checks all the same.
// [Writer] keeps the same rules, so what it wrote can be read.
package replay
