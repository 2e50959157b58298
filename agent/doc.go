// Package agent runs on a node: it meters its GPUs and sends what it sealed.
package agent
