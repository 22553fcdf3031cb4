package cluster

// Attach connects to a cluster that was started elsewhere and is stopped
// there, not by Stop. info is the line that its devcluster printed, bin the
// folder of Berth's programs.
func Attach(bin string, info Info) (*Cluster, error) {
	c := &Cluster{Info: info, Bin: bin}
	return c, c.connect()
}
