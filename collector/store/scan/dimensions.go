package scan

import (
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// missing is the key of a fact that is not there.
var missing = store.Key{Missing: true}

// fact is the key of a fact that is not there if it is "".
func fact(s string) store.Key {
	if s == "" {
		return missing
	}
	return store.Key{Value: s}
}

// DeviceKey is a device's key in a dimension of devices.
func DeviceKey(d store.Dimension, dev *attribution.Device) store.Key {
	switch d {
	case store.Cluster:
		return fact(dev.Cluster)
	case store.Node:
		return fact(dev.Node)
	case store.DeviceID:
		return fact(dev.ID)
	case store.DeviceModel:
		return fact(dev.Model)
	default:
		return missing
	}
}

// ownerAnswers is an owner with all that depends on rules and tallies.
type ownerAnswers struct {
	owner  *attribution.Owner
	mapped store.Mapped
	served store.Served
}

func (k *keyer) answers(o *attribution.Owner) *ownerAnswers {
	a := &ownerAnswers{owner: o}
	if k.env.Map != nil {
		a.mapped = k.env.Map(o)
	}
	if k.env.Served != nil && k.asksModel {
		a.served = k.env.Served(o.Fingerprint())
	}
	return a
}

// key is the owner's key in a dimension of owners.
func (a *ownerAnswers) key(d store.Dimension) store.Key {
	o := a.owner
	switch d {
	case store.Namespace:
		return fact(o.Namespace)
	case store.Controller:
		if o.Controller == "" {
			return missing
		}
		return store.Key{Value: o.ControllerKind + "/" + o.Controller}
	case store.Pod:
		return fact(o.Pod)
	case store.Container:
		return fact(o.Container)
	case store.OwnerID:
		return store.Key{Value: o.Fingerprint().String()}
	case store.Kind:
		return store.Key{Value: o.Kind.String()}
	case store.Team:
		return fact(a.mapped.Team)
	case store.BudgetOwner:
		return fact(a.mapped.BudgetOwner)
	case store.Environment:
		return fact(a.mapped.Environment)
	case store.Model:
		return firstOf(a.mapped.Model, a.served.Model)
	case store.Class:
		return fact(a.mapped.Class)
	case store.Tier:
		return fact(a.mapped.Tier)
	case store.Run:
		return fact(a.mapped.Run)
	case store.Counted:
		return store.Key{Value: strconv.FormatBool(a.served.Counted)}
	case store.Mixed:
		return store.Key{Value: strconv.FormatBool(a.served.Mixed)}
	default:
		if label, ok := d.Label(); ok {
			if v, ok := o.Labels.Get(label); ok {
				return store.Key{Value: v}
			}
		}
		return missing
	}
}

// tallyKey is the key of what the owner served to a subject.
func (a *ownerAnswers) tallyKey(d store.Dimension, s *attribution.Subject) store.Key {
	switch d {
	case store.Cluster:
		return fact(a.owner.Cluster)
	case store.Node:
		return fact(a.owner.Node)
	case store.Model:
		return firstOf(a.mapped.Model, s.Model, a.served.Model)
	case store.Tier:
		return firstOf(s.Tier, a.mapped.Tier)
	case store.OwnTier:
		return fact(s.Tier)
	case store.Tenant:
		return fact(s.Tenant)
	default:
		return a.key(d)
	}
}

func firstOf(ss ...string) store.Key {
	for _, s := range ss {
		if s != "" {
			return store.Key{Value: s}
		}
	}
	return missing
}
