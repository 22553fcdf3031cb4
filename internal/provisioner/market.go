package provisioner

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// discoverEvery is how often instance types, offerings and prices are read.
	discoverEvery = time.Hour
	// spotEvery is how often spot prices are read.
	spotEvery = 5 * time.Minute
	// discoverRetry is the pause after a discovery that failed, twice as long after each further
	// one, up to discoverRetryMost.
	discoverRetry     = 5 * time.Second
	discoverRetryMost = 2 * time.Minute
	// pricesEvery is how often the user's price table is looked at.
	pricesEvery = 15 * time.Second
	// restoreTries is how often a new leader tries to read what the last one
	// published, restorePause the pause between.
	restoreTries = 5
	restorePause = time.Second
	// publishEvery is how often a changed catalogue is published at most.
	publishEvery = 5 * time.Second
	// publishFirst is how often a new leader looks whether it has something to publish.
	publishFirst = 200 * time.Millisecond
)

// discoverer is what the catalogue needs of EC2.
type discoverer interface {
	// Discover reads all instance types with their offerings and prices.
	Discover(ctx context.Context) ([]capacity.Machine, error)
	// RefreshSpotPrices reads spot prices alone; the rest, and what cannot be read, is as
	// discovered last.
	RefreshSpotPrices(ctx context.Context) ([]capacity.Machine, error)
	// Resolve looks up what a Provisioner's EC2 settings stand for.
	Resolve(ctx context.Context, provisioner string, t *v1alpha1.NodeTemplate) (ec2.Resolved, error)
	// SetNetworking tells how the cluster's CNI gives addresses to pods.
	SetNetworking(n capacity.Networking)
	// Notes are remarks on the last discovery, such as the age of fallback prices.
	Notes() []string
}

// market keeps the catalogue fresh and publishes it.
type market struct {
	*Loops
	cloud discoverer
	// table is the user's price table as it was read last, said what was wrong
	// with it.
	table capacity.PriceTable
	said  string
}

// run discovers now, then prices often and everything now and then.
func (m *market) run(ctx context.Context) error {
	m.restore(ctx)
	var whole time.Time
	var noted []string
	retry := discoverRetry
	for {
		read, every := m.cloud.RefreshSpotPrices, spotEvery
		if time.Since(whole) >= discoverEvery {
			read = m.cloud.Discover
		}
		start := time.Now()
		machines, err := read(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			m.log.Error(err, "reading what EC2 offers failed; the last answer stays in force")
			m.catalogue.cannotRead(err)
			m.trigger()
			every, retry = retry, min(2*retry, discoverRetryMost)
		default:
			retry = discoverRetry
			if time.Since(whole) >= discoverEvery {
				whole = start
				m.log.Info("discovered", "instanceTypes", len(machines), "took", time.Since(start).String())
			}
			if notes := m.cloud.Notes(); !slices.Equal(notes, noted) {
				noted = notes
				for _, n := range notes {
					m.log.Info("about prices: " + n)
				}
			}
			m.catalogue.setMachines(machines, start)
			m.trigger()
		}
		for end := time.Now().Add(every); ; {
			m.readPrices()
			left := time.Until(end)
			if left <= 0 {
				break
			}
			if !pause(ctx, min(left, pricesEvery)) {
				return nil
			}
		}
	}
}

// readPrices applies the user's price table, with what is left of its
// commitments. A table that cannot be read leaves the last one in force.
func (m *market) readPrices() {
	if m.cfg.PriceTable == "" {
		return
	}
	data, err := os.ReadFile(m.cfg.PriceTable)
	if err == nil {
		m.table, err = m.parsed(data)
	}
	if err != nil {
		if m.said != err.Error() {
			m.said = err.Error()
			m.log.Error(err, "the price table cannot be read; the last one stays in force")
		}
	} else {
		m.said = ""
	}
	var nodes []capacity.OfferingRef
	for _, c := range all[*v1alpha1.NodeClaim](m.stores.claims) {
		if c.Status.InstanceID == "" || gone(c) || c.DeletionTimestamp != nil {
			continue
		}
		key := offeringKey{c.Status.InstanceType, c.Status.Zone, c.Status.CapacityType, ""}
		nodes = append(nodes, capacity.OfferingRef{InstanceType: key.instanceType, Zone: key.zone, CapacityType: key.capacityType, Price: m.catalogue.listPrice(key)})
	}
	// The order decides which node a commitment covers; it is the same each time.
	slices.SortFunc(nodes, func(a, b capacity.OfferingRef) int {
		return cmp.Or(cmp.Compare(b.Price, a.Price), cmp.Compare(a.InstanceType, b.InstanceType), cmp.Compare(a.Zone, b.Zone))
	})
	if m.catalogue.setPrices(m.table, m.table.Cover(nodes)) {
		m.log.Info("prices of your own applied", "rules", len(m.table.Rules))
		m.trigger()
	}
}

// parsed parses a table, and keeps the last one when it is no good.
func (m *market) parsed(data []byte) (capacity.PriceTable, error) {
	t, err := capacity.ParsePriceTable(data)
	if err != nil {
		return m.table, err
	}
	return t, nil
}

// restore takes over what the last leader published. It is tried for a while,
// since what was learned is in no other place and is soon written over.
func (m *market) restore(ctx context.Context) {
	var cm corev1.ConfigMap
	for try := 1; ; try++ {
		err := m.cfg.APIReader.Get(ctx, client.ObjectKey{Namespace: m.cfg.Namespace, Name: v1alpha1.OfferingsConfigMap}, &cm)
		if err == nil {
			break
		}
		if apierrors.IsNotFound(err) {
			return // None yet: discovery starts from nothing.
		}
		if try == restoreTries {
			m.log.Error(err, "the published offerings cannot be read; starting without them")
			return
		}
		if !pause(ctx, restorePause) {
			return
		}
	}
	o, err := capacity.DecodeOfferings(cm.BinaryData[capacity.OfferingsKey])
	if err != nil {
		m.log.Error(err, "the published offerings cannot be read; starting without them")
		return
	}
	if m.catalogue.restore(*o, time.Now()) {
		m.log.Info("planning with the offerings of the last leader until EC2 has answered", "instanceTypes", len(o.Machines), "of", o.At)
		m.trigger()
	}
}

// publish stores the catalogue for the webhook and the next leader, whenever
// it has changed.
func (m *market) publish(ctx context.Context) error {
	var published int64 = -1
	wait := publishFirst
	for pause(ctx, wait) {
		o := m.catalogue.offerings(time.Now())
		if o.Version == published || len(o.Machines) == 0 {
			continue
		}
		wait = publishEvery
		if err := m.store(ctx, &o); err != nil {
			if ctx.Err() == nil {
				m.log.Error(err, "publishing the offerings failed; tried again")
			}
			continue
		}
		published = o.Version
	}
	return nil
}

func (m *market) store(ctx context.Context, o *capacity.Offerings) error {
	data, err := capacity.EncodeOfferings(o)
	if err != nil {
		return fmt.Errorf("encoding the offerings: %w", err)
	}
	cm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: m.cfg.Namespace, Name: v1alpha1.OfferingsConfigMap},
		BinaryData: map[string][]byte{capacity.OfferingsKey: data},
	}
	err = m.cfg.Client.Update(ctx, cm)
	if apierrors.IsNotFound(err) {
		err = m.cfg.Client.Create(ctx, cm)
	}
	if err != nil {
		return fmt.Errorf("storing ConfigMap %s/%s: %w", cm.Namespace, cm.Name, err)
	}
	return nil
}

// pause waits and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
