// Package bench measures gpuledger beside what people use today, on the same
// facts, in the same run. README.md has the last figures and the machine.
//
//	go test ./bench/... -run '^$' -bench . -benchmem
//
// Nothing here is timed in CI: the machines are shared, and a figure means
// something only beside its neighbour.
package bench
