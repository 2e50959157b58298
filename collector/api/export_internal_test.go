package api

import (
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// ExportOf answers with the file that a ledger at an address gives.
func ExportOf(t *testing.T, addr string) http.Handler {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return exportFile(pb.NewLedgerClient(conn))
}
