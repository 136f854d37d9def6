package main

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// view is what a node's rules depend on.
type view struct {
	node       string
	pods       netip.Prefix
	running    []*core.Pod
	policies   []*networking.NetworkPolicy
	namespaces map[string]labels.Set
}

// way is a direction as seen from a pod: which address is the other's.
type way struct {
	name  string
	kind  networking.PolicyType
	own   string
	other string
}

var (
	in  = way{name: "in", kind: networking.PolicyTypeIngress, own: "daddr", other: "saddr"}
	out = way{name: "out", kind: networking.PolicyTypeEgress, own: "saddr", other: "daddr"}
)

// rule is a policy's ingress or egress rule.
type rule struct {
	namespace string
	peers     []networking.NetworkPolicyPeer
	ports     []networking.NetworkPolicyPort
}

// rules returns the script of nft that replaces the node's rules.
//
// Each pod that a policy isolates has a chain for that direction, which returns
// what is allowed and drops the rest. Node to pod passes, as Kubernetes has it;
// pod to node doesn't, unless allowed: the cluster's DNS and API server are there.
// What belongs to a connection that was let through passes. A pod whose address
// nobody has told yet reaches nothing: it may turn out to be isolated.
func (v view) rules() (string, error) {
	var chains []string
	known := []string{}
	jumps := map[string][]string{}
	local := []*core.Pod{}
	for _, pod := range v.running {
		if pod.Spec.NodeName == v.node && networked(pod) {
			local = append(local, pod)
		}
	}
	sort.Slice(local, func(i, j int) bool { return local[i].Status.PodIP < local[j].Status.PodIP })
	for _, pod := range local {
		known = append(known, pod.Status.PodIP)
		for _, direction := range []way{in, out} {
			allowed, isolated, err := v.allowed(pod, direction)
			if err != nil {
				return "", err
			}
			if !isolated {
				continue
			}
			name := direction.name + "-" + pod.Status.PodIP
			lines := []string{fmt.Sprintf("ip %s %s return", direction.other, pod.Status.PodIP)}
			lines = append(lines, allowed...)
			lines = append(lines, fmt.Sprintf("counter drop comment \"%s/%s\"", pod.Namespace, pod.Name))
			chains = append(chains, chain(name, lines...))
			jumps[direction.name] = append(jumps[direction.name], pod.Status.PodIP+" : jump "+name)
		}
	}
	var inward, outward []string
	if len(jumps[in.name]) > 0 {
		inward = []string{"ip daddr vmap { " + strings.Join(jumps[in.name], ", ") + " }"}
	}
	stranger := "ip saddr " + v.pods.Masked().String()
	if len(known) > 0 {
		stranger += " ip saddr != { " + strings.Join(known, ", ") + " }"
	}
	outward = append(outward, "ct state established,related accept", stranger+" counter drop")
	if len(jumps[out.name]) > 0 {
		outward = append(outward, "ip saddr vmap { "+strings.Join(jumps[out.name], ", ")+" }")
	}
	hook := "type filter hook %s priority filter; policy accept;"
	chains = append(chains,
		chain("forward", append(append([]string{fmt.Sprintf(hook, "forward")}, outward...), inward...)...),
		chain("input", append([]string{fmt.Sprintf(hook, "input")}, outward...)...),
	)
	table := "table ip network-policies"
	return fmt.Sprintf("%s\ndelete %s\n%s {\n%s}\n", table, table, table, strings.Join(chains, "")), nil
}

func chain(name string, lines ...string) string {
	return fmt.Sprintf("chain %s {\n%s\n}\n", name, strings.Join(lines, "\n"))
}

// allowed returns the lines that let a pod's packets through, and whether any
// policy isolates the pod in that direction.
func (v view) allowed(pod *core.Pod, direction way) ([]string, bool, error) {
	isolated := false
	found := map[string]bool{}
	for _, policy := range v.policies {
		if policy.Namespace != pod.Namespace || !isolates(policy, direction.kind) {
			continue
		}
		selector, err := meta.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil {
			return nil, false, fmt.Errorf("%s/%s: %w", policy.Namespace, policy.Name, err)
		}
		if !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		isolated = true
		var rules []rule
		if direction == in {
			for _, it := range policy.Spec.Ingress {
				rules = append(rules, rule{policy.Namespace, it.From, it.Ports})
			}
		} else {
			for _, it := range policy.Spec.Egress {
				rules = append(rules, rule{policy.Namespace, it.To, it.Ports})
			}
		}
		for _, it := range rules {
			lines, err := v.lines(pod, it, direction)
			if err != nil {
				return nil, false, fmt.Errorf("%s/%s: %w", policy.Namespace, policy.Name, err)
			}
			for _, line := range lines {
				found[line] = true
			}
		}
	}
	return sorted(found), isolated, nil
}

// lines returns what one rule of a policy allows: each peer with each port.
func (v view) lines(pod *core.Pod, allowed rule, direction way) ([]string, error) {
	peers, err := v.peers(allowed)
	if err != nil {
		return nil, err
	}
	wheres := peers.matches(direction.other)
	if len(allowed.ports) == 0 {
		return each(wheres, "return"), nil
	}
	var lines []string
	for _, port := range allowed.ports {
		protocol := strings.ToLower(string(core.ProtocolTCP))
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.Port == nil:
			lines = append(lines, each(wheres, "meta l4proto "+protocol+" return")...)
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			lines = append(lines, each(wheres, fmt.Sprintf("%s dport %d-%d return", protocol, port.Port.IntVal, *port.EndPort))...)
		case port.Port.Type == intstr.Int:
			lines = append(lines, each(wheres, fmt.Sprintf("%s dport %d return", protocol, port.Port.IntVal))...)
		case direction == in:
			if number, ok := numbered(pod, port.Port.StrVal, protocol); ok {
				lines = append(lines, each(wheres, fmt.Sprintf("%s dport %d return", protocol, number))...)
			}
		default: // a name means another port on each pod
			for _, it := range peers.pods {
				if number, ok := numbered(it, port.Port.StrVal, protocol); ok {
					lines = append(lines, fmt.Sprintf("ip daddr %s %s dport %d return", it.Status.PodIP, protocol, number))
				}
			}
		}
	}
	return lines, nil
}

func each(wheres []string, then string) []string {
	lines := make([]string, 0, len(wheres))
	for _, where := range wheres {
		lines = append(lines, where+then)
	}
	return lines
}

// peers is whom a rule names.
type peers struct {
	anybody bool
	pods    []*core.Pod
	blocks  []networking.IPBlock
}

func (v view) peers(allowed rule) (peers, error) {
	if len(allowed.peers) == 0 {
		found := peers{anybody: true}
		for _, pod := range v.running {
			if networked(pod) {
				found.pods = append(found.pods, pod)
			}
		}
		return found, nil
	}
	found := peers{}
	for _, peer := range allowed.peers {
		if peer.IPBlock != nil {
			found.blocks = append(found.blocks, *peer.IPBlock)
			continue
		}
		ofPods, err := selecting(peer.PodSelector)
		if err != nil {
			return peers{}, err
		}
		ofNamespaces, err := selecting(peer.NamespaceSelector)
		if err != nil {
			return peers{}, err
		}
		for _, pod := range v.running {
			if !networked(pod) || !ofPods.Matches(labels.Set(pod.Labels)) {
				continue
			}
			if peer.NamespaceSelector == nil && pod.Namespace != allowed.namespace {
				continue
			}
			if of, ok := v.namespaces[pod.Namespace]; ok && ofNamespaces.Matches(of) {
				found.pods = append(found.pods, pod)
			}
		}
	}
	return found, nil
}

func selecting(selector *meta.LabelSelector) (labels.Selector, error) {
	if selector == nil {
		return labels.Everything(), nil
	}
	return meta.LabelSelectorAsSelector(selector)
}

// matches returns what of nft matches the peers' addresses, ready for more to follow.
func (p peers) matches(address string) []string {
	if p.anybody {
		return []string{""}
	}
	var found []string
	addresses := map[string]bool{}
	for _, pod := range p.pods {
		addresses[pod.Status.PodIP] = true
	}
	if len(addresses) > 0 {
		found = append(found, fmt.Sprintf("ip %s { %s } ", address, strings.Join(sorted(addresses), ", ")))
	}
	for _, block := range p.blocks {
		prefix, err := netip.ParsePrefix(block.CIDR)
		if err != nil || !prefix.Addr().Is4() { // pods here have IPv4 addresses only
			continue
		}
		match := fmt.Sprintf("ip %s %s ", address, prefix.Masked())
		if len(block.Except) > 0 {
			match += fmt.Sprintf("ip %s != { %s } ", address, strings.Join(block.Except, ", "))
		}
		found = append(found, match)
	}
	return found
}

// numbered returns the number of a port that a pod's containers name.
func numbered(pod *core.Pod, name, protocol string) (int32, bool) {
	containers := append(append([]core.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, container := range containers {
		for _, port := range container.Ports {
			if port.Name == name && strings.EqualFold(string(port.Protocol), protocol) {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}

func sorted(set map[string]bool) []string {
	found := make([]string, 0, len(set))
	for it := range set {
		found = append(found, it)
	}
	sort.Strings(found)
	return found
}
