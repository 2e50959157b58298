package clickhousetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/internal/loopback"
)

func port(address string) string {
	_, p, _ := net.SplitHostPort(address) // made by us
	return p
}

// configure writes a server's configuration.
func (n *Node) configure() error {
	for _, dir := range []string{"", "data/tmp", "data/user_files", "data/format_schemas"} {
		if err := os.MkdirAll(filepath.Join(n.dir, dir), 0o700); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`<?xml version="1.0"?>
<yandex>
 <logger><level>warning</level><log>%[1]s/s.log</log><errorlog>%[1]s/e.log</errorlog><size>100M</size><count>2</count></logger>
 <listen_host>127.0.0.1</listen_host>
 <http_port>%[2]s</http_port><tcp_port>%[3]s</tcp_port><interserver_http_port>%[4]s</interserver_http_port>
 <interserver_http_host>127.0.0.1</interserver_http_host>
 <path>%[1]s/data/</path><tmp_path>%[1]s/data/tmp/</tmp_path>
 <user_files_path>%[1]s/data/user_files/</user_files_path><format_schema_path>%[1]s/data/format_schemas/</format_schema_path>
 <users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
 <timezone>UTC</timezone>
 <mark_cache_size>67108864</mark_cache_size><uncompressed_cache_size>0</uncompressed_cache_size>
 <max_concurrent_queries>100</max_concurrent_queries>
 %[5]s
</yandex>
`, n.dir, port(n.Address), port(n.tcp), port(n.interserver), n.cluster.section(n))
	const users = `<?xml version="1.0"?>
<yandex>
 <profiles><default><max_memory_usage>2000000000</max_memory_usage><load_balancing>random</load_balancing><max_threads>2</max_threads></default></profiles>
 <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
 <quotas><default><interval><duration>3600</duration><queries>0</queries><errors>0</errors><result_rows>0</result_rows><read_rows>0</read_rows><execution_time>0</execution_time></interval></default></quotas>
</yandex>
`
	return errors.Join(os.WriteFile(filepath.Join(n.dir, "config.xml"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(n.dir, "users.xml"), []byte(users), 0o600))
}

// section is what servers of a cluster are told of each other.
func (c *Cluster) section(n *Node) string {
	if c.Name == "" {
		return ""
	}
	var s strings.Builder
	fmt.Fprintf(&s, "<zookeeper><node><host>127.0.0.1</host><port>%s</port></node><session_timeout_ms>30000</session_timeout_ms></zookeeper>\n", port(c.keeper))
	fmt.Fprintf(&s, " <macros><shard>%d</shard><replica>r%d</replica></macros>\n <remote_servers><%s>", n.Shard, n.Replica, c.Name)
	for i, x := range c.Nodes {
		if i == 0 || c.Nodes[i-1].Shard != x.Shard {
			s.WriteString("<shard><internal_replication>true</internal_replication>")
		}
		fmt.Fprintf(&s, "<replica><host>127.0.0.1</host><port>%s</port></replica>", port(x.tcp))
		if i+1 == len(c.Nodes) || c.Nodes[i+1].Shard != x.Shard {
			s.WriteString("</shard>")
		}
	}
	fmt.Fprintf(&s, "</%s></remote_servers>\n <distributed_ddl><path>/clickhouse/task_queue/ddl</path></distributed_ddl>", c.Name)
	return s.String()
}

// startZooKeeper starts the one ZooKeeper of a cluster.
func (c *Cluster) startZooKeeper(ctx context.Context) (err error) {
	if c.keeper, err = loopback.Address(); err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "zookeeper")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config := filepath.Join(dir, "zoo.cfg")
	text := fmt.Sprintf("tickTime=1000\ndataDir=%s\nclientPort=%s\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", dir, port(c.keeper))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	var jars []string
	for _, root := range []string{c.root, "/"} {
		found, _ := filepath.Glob(filepath.Join(root, "usr/share/java/*.jar")) // the pattern is good
		for _, j := range found {
			name := filepath.Base(j)
			for _, want := range []string{"zookeeper", "slf4j-api", "slf4j-nop", "commons-cli", "commons-io", "metrics-core", "snappy"} {
				if strings.HasPrefix(name, want) {
					jars = append(jars, j)
				}
			}
		}
	}
	cmd, err := c.program(filepath.Join(dir, "out"), "java", "-Xmx256m", "-cp", strings.Join(jars, ":"),
		"org.apache.zookeeper.server.ZooKeeperServerMain", config)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("ZooKeeper needs a Java runtime: %w", err)
	}
	c.zookeeper = cmd
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := serves(ctx, c.keeper)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			out, _ := os.ReadFile(filepath.Join(dir, "out"))
			return fmt.Errorf("ZooKeeper does not answer: %w\n%.2000s", err, out)
		}
	}
}

// serves asks a ZooKeeper whether it serves: its port is open long before.
func serves(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // all is read
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("srvr")); err != nil {
		return err
	}
	text, err := io.ReadAll(conn)
	if err == nil && !strings.Contains(string(text), "Mode:") {
		err = fmt.Errorf("ZooKeeper says %q", text)
	}
	return err
}
